// Memory apart from its addresses: cuMemCreate makes it, cuMemMap puts it somewhere, a descriptor
// carries it to other processes. It is a file that whoever has it keeps locked, so that what is in
// use can be told from outside; in a machine without a directory, a memfd.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core.hpp"

namespace fake {
namespace {

constexpr std::size_t kGranularity = 2 << 20;
constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

void* pointer(CUdeviceptr address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
}

std::string created_counter(int device) { return "created." + Core::get().gpu(device).uuid; }

int open_allocation(int device, CUmemGenericAllocationHandle number) {
  const Machine& machine = Machine::get();
  if (machine.directory().empty()) return memfd_create("fake-device-memory", MFD_CLOEXEC);
  const auto folder = machine.directory() / "allocations";
  std::filesystem::create_directories(folder);
  const std::string name =
      Core::get().gpu(device).uuid + "." + std::to_string(getpid()) + "." + std::to_string(number);
  const auto draft = folder / ("." + name);
  const int fd = open(draft.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return fd;
  // The lock goes with the open file: with all duplicates of `fd`, and all mappings made of them.
  flock(fd, LOCK_SH);
  std::filesystem::rename(draft, folder / name);
  return fd;
}

CUmemGenericAllocationHandle add_allocation(std::shared_ptr<Allocation> allocation) {
  static CUmemGenericAllocationHandle last = 0xa110c;
  Core& core = Core::get();
  core.count("live.handles");
  core.allocations.emplace(++last, std::move(allocation));
  return last;
}

bool is_wanted(const CUmemAllocationProp* wanted) {
  return wanted != nullptr && wanted->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
         wanted->location.type == CU_MEM_LOCATION_TYPE_DEVICE && wanted->location.id >= 0 &&
         wanted->location.id < Core::get().device_count();
}

// The mapping that is exactly there, or end().
auto mapping(CUdeviceptr address, std::size_t bytes) {
  auto& ranges = Core::get().device_ranges;
  const auto at = ranges.find(address);
  return at != ranges.end() && at->second.mapped != nullptr && at->second.bytes == bytes
             ? at
             : ranges.end();
}

}  // namespace

Allocation::~Allocation() {
  if (counted) Core::get().count(created_counter(device), -static_cast<std::int64_t>(bytes));
  close(memory_fd);
}

void unmap(const DeviceRange& range) {
  unmap_guarded(range.memory, range.mapped_bytes);
  // The addresses stay reserved.
  mmap(pointer(range.start), range.mapped_bytes, PROT_NONE, kReserved | MAP_FIXED, -1, 0);
  Core::get().count("live.mapped", -1);
}

void free_allocations() {
  Core& core = Core::get();
  for (const auto& [address, bytes] : core.reservations) {
    munmap(pointer(address), bytes);
    core.count("leaked.reserved");
    core.count("live.reserved", -1);
  }
  core.reservations.clear();
  for (std::size_t left = core.allocations.size(); left > 0; --left) {
    core.count("leaked.handles");
    core.count("live.handles", -1);
  }
  core.allocations.clear();
}

}  // namespace fake

using namespace fake;

CUresult cuMemGetAllocationGranularity(std::size_t* bytes, const CUmemAllocationProp* wanted,
                                       CUmemAllocationGranularity_flags) {
  if (const CUresult failed = enter("cuMemGetAllocationGranularity", Needs::kInit)) return failed;
  if (!is_wanted(wanted)) return CUDA_ERROR_INVALID_VALUE;
  *bytes = kGranularity;
  return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes,
                     const CUmemAllocationProp* wanted, unsigned long long flags) {
  if (const CUresult failed = enter("cuMemCreate")) return failed;
  Core& core = Core::get();
  core.count("allocations");
  if (!is_wanted(wanted) || flags != 0 || bytes == 0 || bytes % kGranularity != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(core.mutex);
  const int device = wanted->location.id;
  if (core.gpu(device).fields.number("exports_memory", 1) == 0 && wanted->requestedHandleTypes != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (!memory_fits(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  static CUmemGenericAllocationHandle files = 0;
  const auto allocation = std::make_shared<Allocation>();
  allocation->memory_fd = open_allocation(device, ++files);
  allocation->bytes = bytes;
  allocation->device = device;
  if (allocation->memory_fd < 0 || ftruncate(allocation->memory_fd, static_cast<off_t>(bytes)) != 0)
    return CUDA_ERROR_OPERATING_SYSTEM;
  allocation->counted = true;
  core.count(created_counter(device), static_cast<std::int64_t>(bytes));
  core.count("created");
  *handle = add_allocation(allocation);
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  if (const CUresult failed = enter("cuMemRelease")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (core.allocations.erase(handle) == 0) return CUDA_ERROR_INVALID_VALUE;
  core.count("live.handles", -1);
  return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void* exported, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  if (const CUresult failed = enter("cuMemExportToShareableHandle")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto at = core.allocations.find(handle);
  if (at == core.allocations.end() || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
      flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const int fd = dup(at->second->memory_fd);  // inherited by programs that are started, as a GPU's
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(exported) = fd;
  return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* exported,
                                        CUmemAllocationHandleType type) {
  if (const CUresult failed = enter("cuMemImportFromShareableHandle")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_INVALID_VALUE;
  const auto allocation = std::make_shared<Allocation>();
  allocation->memory_fd =
      fcntl(static_cast<int>(reinterpret_cast<std::intptr_t>(exported)), F_DUPFD_CLOEXEC, 0);
  struct stat stat{};
  if (allocation->memory_fd < 0 || fstat(allocation->memory_fd, &stat) != 0 ||
      !S_ISREG(stat.st_mode))
    return CUDA_ERROR_INVALID_VALUE;
  allocation->bytes = static_cast<std::size_t>(stat.st_size);
  allocation->device = current_context()->device;
  core.count("imported");
  *handle = add_allocation(allocation);
  return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* address, std::size_t bytes, std::size_t alignment,
                             CUdeviceptr wanted, unsigned long long flags) {
  if (const CUresult failed = enter("cuMemAddressReserve")) return failed;
  if (bytes == 0 || bytes % kGranularity != 0 || alignment != 0 || wanted != 0 || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  void* reserved = mmap(nullptr, bytes, PROT_NONE, kReserved, -1, 0);
  if (reserved == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<std::uintptr_t>(reserved);
  core.reservations.emplace(*address, bytes);
  core.count("live.reserved");
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, std::size_t bytes) {
  if (const CUresult failed = enter("cuMemAddressFree")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto at = core.reservations.find(address);
  if (at == core.reservations.end() || at->second != bytes) return CUDA_ERROR_INVALID_VALUE;
  if (core.device_ranges.contains(address))
    return core.violation("cuMemAddressFree: memory is still mapped there");
  munmap(pointer(address), bytes);
  core.reservations.erase(at);
  core.count("live.reserved", -1);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (const CUresult failed = enter("cuMemMap")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto there = core.reservations.find(address);
  const auto at = core.allocations.find(handle);
  if (there == core.reservations.end() || there->second != bytes || at == core.allocations.end() ||
      at->second->bytes < bytes || offset != 0 || flags != 0 ||
      core.device_ranges.contains(address))
    return CUDA_ERROR_INVALID_VALUE;
  DeviceRange range{.start = address,
                    .bytes = bytes,
                    .mapped_bytes = bytes,
                    .device = at->second->device,
                    .mapped = at->second,
                    .readable = false,
                    .writable = false};
  range.memory = static_cast<char*>(map_guarded(at->second->memory_fd, bytes));
  if (range.memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  core.device_ranges.emplace(address, range);
  core.count("live.mapped");
  return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr address, std::size_t bytes) {
  if (const CUresult failed = enter("cuMemUnmap")) return failed;
  Core& core = Core::get();
  Lock lock(core.mutex);
  if (mapping(address, bytes) == core.device_ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  wait_all_idle(lock, current_context());
  const auto at = mapping(address, bytes);
  if (at == core.device_ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  unmap(at->second);
  core.device_ranges.erase(at);
  return CUDA_SUCCESS;
}

// Host code that goes to the address itself has the same rights there, and faults without them.
CUresult cuMemSetAccess(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc* wanted,
                        std::size_t count) {
  if (const CUresult failed = enter("cuMemSetAccess")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto at = mapping(address, bytes);
  if (at == core.device_ranges.end() || count != 1 ||
      wanted->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
      wanted->location.id != at->second.device)
    return CUDA_ERROR_INVALID_VALUE;
  DeviceRange& range = at->second;
  range.readable = wanted->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
  range.writable = wanted->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  if (Machine::get().settings().number("opaque", 0) != 0) return CUDA_SUCCESS;
  const int rights = (range.readable ? PROT_READ : 0) | (range.writable ? PROT_WRITE : 0);
  void* mapped =
      mmap(pointer(address), bytes, rights, MAP_SHARED | MAP_FIXED, range.mapped->memory_fd, 0);
  return mapped == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
