// Copies. An asynchronous one of memory that is neither registered nor pinned would silently be
// made to wait on a real GPU, so it is refused here unless the settings say strict=0.
#include <cstring>

#include "core.hpp"

namespace fake {
namespace {

using Kind = Place::Kind;

bool on_host(const Place& place) {
  return place.kind == Kind::kPinned || place.kind == Kind::kPageable;
}

struct Copy {
  Place to, from;
  std::size_t bytes = 0;

  const char* kind() const {
    if (from.kind == Kind::kDevice) return on_host(to) ? "d2h" : "d2d";
    return to.kind == Kind::kDevice ? "h2d" : "h2h";
  }
};

Copy make_copy(std::uint64_t to, std::uint64_t from, std::size_t bytes) {
  return {resolve(to, bytes), resolve(from, bytes), bytes};
}

bool strict() { return Machine::get().settings().number("strict", 1) != 0; }

CUresult check(const char* function, const Copy& copy) {
  Core& core = Core::get();
  if (copy.to.kind == Kind::kStraddles || copy.from.kind == Kind::kStraddles)
    return core.violation(std::string(function) + ": " + std::to_string(copy.bytes) +
                          " bytes leave the memory that the address lies in");
  return CUDA_SUCCESS;
}

CUresult check_async(const char* function, const Copy& copy) {
  if (const CUresult failed = check(function, copy)) return failed;
  if (copy.to.kind != Kind::kPageable && copy.from.kind != Kind::kPageable) return CUDA_SUCCESS;
  Core::get().count("copies.pageable");
  if (!strict()) return CUDA_SUCCESS;
  return Core::get().violation(std::string(function) + ": an asynchronous copy of pageable memory");
}

void count_copy(CUstream stream, const Copy& copy) {
  Core& core = Core::get();
  core.count(std::string("copies.") + copy.kind());
  core.count(std::string("bytes.") + copy.kind(), static_cast<std::int64_t>(copy.bytes));
  if (stream == stream->context->legacy) core.count("copies.legacy_stream");
}

Operation operation_of(std::vector<Copy> copies) {
  Operation operation{.kind = copies.front().kind()};
  for (const Copy& copy : copies)
    for (const Place& place : {copy.to, copy.from})
      if (place.host != nullptr) operation.hosts.push_back(place.host);
  operation.run = [copies = std::move(copies)] {
    for (const Copy& copy : copies) {
      if (!copy.to.writable) return CUDA_ERROR_ILLEGAL_ADDRESS;
      std::memmove(copy.to.address, copy.from.address, copy.bytes);
    }
    return CUDA_SUCCESS;
  };
  return operation;
}

CUresult copy_async(const char* function, std::uint64_t to, std::uint64_t from, std::size_t bytes,
                    CUstream handle) {
  if (bytes == 0) return CUDA_SUCCESS;
  Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const Copy copy = make_copy(to, from, bytes);
  if (const CUresult failed = check_async(function, copy)) return failed;
  count_copy(stream, copy);
  const bool pageable = copy.to.kind == Kind::kPageable || copy.from.kind == Kind::kPageable;
  const CUresult failed = enqueue(lock, stream, operation_of({copy}));
  if (failed == CUDA_SUCCESS && pageable && !stream->capture) wait_idle(lock, stream);
  return failed;
}

// Stream 0 carries it, and the caller waits.
CUresult copy_now(const char* function, std::uint64_t to, std::uint64_t from, std::size_t bytes) {
  Core& core = Core::get();
  core.count("synchronise");
  if (bytes == 0) return CUDA_SUCCESS;
  Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture(function)) return refused;
  const CUstream stream = find_stream(nullptr);
  const Copy copy = make_copy(to, from, bytes);
  if (const CUresult failed = check(function, copy)) return failed;
  count_copy(stream, copy);
  if (const CUresult failed = enqueue(lock, stream, operation_of({copy}))) return failed;
  wait_idle(lock, stream);
  return core.lost();
}

CUresult copy_batch(const char* function, const CUdeviceptr* to, const CUdeviceptr* from,
                    const std::size_t* bytes, std::size_t count,
                    const CUmemcpyAttributes* attributes, const std::size_t* starts,
                    std::size_t attribute_count, CUstream handle) {
  Core& core = Core::get();
  if (count == 0 || attribute_count == 0 || attribute_count > count || starts[0] != 0)
    return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < attribute_count; ++i) {
    if (attributes[i].srcAccessOrder < CU_MEMCPY_SRC_ACCESS_ORDER_STREAM ||
        attributes[i].srcAccessOrder > CU_MEMCPY_SRC_ACCESS_ORDER_ANY || attributes[i].flags > 1)
      return CUDA_ERROR_INVALID_VALUE;
    if (starts[i] >= count || (i > 0 && starts[i] <= starts[i - 1]))
      return CUDA_ERROR_INVALID_VALUE;
  }
  Lock lock(core.mutex);
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  if (value <= 1) return core.violation(std::string(function) + ": on the legacy stream");
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) return refused_by_capture(function);
  std::vector<Copy> copies;
  for (std::size_t i = 0; i < count; ++i) {
    if (bytes[i] == 0) return CUDA_ERROR_INVALID_VALUE;
    copies.push_back(make_copy(to[i], from[i], bytes[i]));
    if (const CUresult failed = check_async(function, copies.back())) return failed;
  }
  for (const Copy& copy : copies) count_copy(stream, copy);
  core.count("copies.batched", static_cast<std::int64_t>(count));
  return enqueue(lock, stream, operation_of(std::move(copies)));
}

std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace
}  // namespace fake

using namespace fake;

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  if (const CUresult failed = enter("cuMemcpyHtoD_v2")) return failed;
  return copy_now("cuMemcpyHtoD_v2", to, address_of(from), bytes);
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  if (const CUresult failed = enter("cuMemcpyDtoH_v2")) return failed;
  return copy_now("cuMemcpyDtoH_v2", address_of(to), from, bytes);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes,
                              CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyHtoDAsync_v2")) return failed;
  return copy_async("cuMemcpyHtoDAsync_v2", to, address_of(from), bytes, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyDtoHAsync_v2")) return failed;
  return copy_async("cuMemcpyDtoHAsync_v2", address_of(to), from, bytes, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                              CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyDtoDAsync_v2")) return failed;
  return copy_async("cuMemcpyDtoDAsync_v2", to, from, bytes, stream);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyAsync")) return failed;
  return copy_async("cuMemcpyAsync", to, from, bytes, stream);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream handle) {
  if (const CUresult failed = enter("cuMemsetD8Async")) return failed;
  if (bytes == 0) return CUDA_SUCCESS;
  Core& core = Core::get();
  Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const Place place = resolve(to, bytes);
  if (place.kind != Place::Kind::kDevice)
    return core.violation("cuMemsetD8Async: bytes that are not on the device");
  core.count("memsets");
  return enqueue(lock, stream, {.kind = "memset", .run = [place, value, bytes] {
                                  if (!place.writable) return CUDA_ERROR_ILLEGAL_ADDRESS;
                                  std::memset(place.address, value, bytes);
                                  return CUDA_SUCCESS;
                                }});
}

CUresult cuMemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                            std::size_t count, CUmemcpyAttributes* attributes,
                            std::size_t* attribute_starts, std::size_t attribute_count,
                            std::size_t* failed_index, CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyBatchAsync")) return failed;
  const CUresult failed = copy_batch("cuMemcpyBatchAsync", to, from, bytes, count, attributes,
                                     attribute_starts, attribute_count, stream);
  if (failed != CUDA_SUCCESS && failed_index != nullptr) *failed_index = SIZE_MAX;
  return failed;
}

CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                               std::size_t count, CUmemcpyAttributes* attributes,
                               std::size_t* attribute_starts, std::size_t attribute_count,
                               CUstream stream) {
  if (const CUresult failed = enter("cuMemcpyBatchAsync_v2")) return failed;
  return copy_batch("cuMemcpyBatchAsync_v2", to, from, bytes, count, attributes, attribute_starts,
                    attribute_count, stream);
}
