// Device memory, pinned memory, registration, IPC. Device memory is a memfd of its own: another
// process maps it through /proc, and an address that leaves it is caught.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core.hpp"

namespace fake {
namespace {

constexpr std::size_t kPage = 4096;

std::size_t whole_pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void* pointer(std::uint64_t address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
}

std::string memory_counter(int device) { return "memory." + Core::get().gpu(device).uuid; }

std::uint64_t memory_mine_bytes(int device) {
  return Core::get().counters->at(memory_counter(device));
}

void release(const DeviceRange& range) {
  if (range.mapped != nullptr) return unmap(range);
  Core& core = Core::get();
  if (pointer(range.start) != range.memory) munmap(pointer(range.start), range.mapped_bytes);
  unmap_guarded(range.memory, range.mapped_bytes);
  close(range.memory_fd);
  core.count(range.imported ? "live.imported" : "live.device_memory", -1);
  if (!range.imported)
    core.count(memory_counter(range.device), -static_cast<std::int64_t>(range.mapped_bytes));
}

CUresult add_range(DeviceRange range, CUdeviceptr* address) {
  Core& core = Core::get();
  range.memory = static_cast<char*>(map_guarded(range.memory_fd, range.mapped_bytes));
  if (range.memory == nullptr) {
    close(range.memory_fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  void* address_range = range.memory;
  if (Machine::get().settings().number("opaque", 0) != 0)
    // Addresses of its own, which only the device can follow: who reads there faults, as on a GPU.
    address_range = mmap(nullptr, range.mapped_bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  range.start = reinterpret_cast<std::uintptr_t>(address_range);
  *address = range.start;
  core.device_ranges.emplace(range.start, range);
  core.count(range.imported ? "live.imported" : "live.device_memory");
  if (!range.imported)
    core.count(memory_counter(range.device), static_cast<std::int64_t>(range.mapped_bytes));
  return CUDA_SUCCESS;
}

// The range that `address` lies in, or end().
std::map<CUdeviceptr, DeviceRange>::iterator device_range(CUdeviceptr address) {
  auto& ranges = Core::get().device_ranges;
  auto at = ranges.upper_bound(address);
  if (at == ranges.begin()) return ranges.end();
  --at;
  return address - at->first < at->second.bytes ? at : ranges.end();
}

std::shared_ptr<HostRange> host_range(std::uintptr_t address) {
  auto& ranges = Core::get().host_ranges;
  auto at = ranges.upper_bound(address);
  if (at == ranges.begin()) return nullptr;
  --at;
  return address - at->first < at->second->bytes ? at->second : nullptr;
}

bool overlaps_host_range(std::uintptr_t start, std::size_t bytes) {
  auto& ranges = Core::get().host_ranges;
  const auto after = ranges.lower_bound(start);
  return (after != ranges.end() && after->first < start + bytes) || host_range(start) != nullptr;
}

CUresult remove_host_range(void* host, bool allocated, const char* function) {
  Core& core = Core::get();
  const auto at = core.host_ranges.find(reinterpret_cast<std::uintptr_t>(host));
  if (at == core.host_ranges.end() || at->second->allocated != allocated)
    return allocated ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  if (at->second->in_flight > 0)
    return core.violation(std::string(function) + ": copies of this memory are still in flight");
  if (allocated) munmap(host, whole_pages(at->second->bytes));
  core.count(allocated ? "live.pinned" : "live.registered", -1);
  core.host_ranges.erase(at);
  return CUDA_SUCCESS;
}

// What a handle of cuIpcGetMemHandle holds.
struct IpcHandle {
  std::int32_t pid;
  std::int32_t memory_fd;
  std::int32_t device;
  std::uint64_t bytes;
  std::uint64_t mapped_bytes;
};
static_assert(sizeof(IpcHandle) <= sizeof(CUipcMemHandle));

}  // namespace

// Maps `fd` with a page on both sides that nothing may touch; null when the machine has no room.
void* map_guarded(int fd, std::size_t bytes) {
  char* reserved = static_cast<char*>(mmap(nullptr, bytes + 2 * kPage, PROT_NONE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (reserved == MAP_FAILED) return nullptr;
  void* mapped =
      mmap(reserved + kPage, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped != MAP_FAILED) return mapped;
  munmap(reserved, bytes + 2 * kPage);
  return nullptr;
}

void unmap_guarded(void* mapped, std::size_t bytes) {
  munmap(static_cast<char*>(mapped) - kPage, bytes + 2 * kPage);
}

std::uint64_t memory_used_bytes(int device) {
  const Machine& machine = Machine::get();
  return machine.directory().empty() ? memory_mine_bytes(device)
                                     : machine.memory_used_bytes(Core::get().gpu(device));
}

bool memory_fits(int device, std::size_t bytes) {
  Core& core = Core::get();
  const Gpu& gpu = core.gpu(device);
  const std::uint64_t mine = memory_mine_bytes(device) + core.counters->at("created." + gpu.uuid);
  return memory_used_bytes(device) + bytes <= gpu.memory_bytes &&
         mine + bytes <= core.mps.memory_limit_bytes(gpu.uuid);
}

Place resolve(std::uint64_t address, std::size_t bytes) {
  if (const auto at = device_range(address); at != Core::get().device_ranges.end()) {
    const DeviceRange& range = at->second;
    const bool inside = range.readable && address + bytes <= at->first + range.bytes;
    return {inside ? Place::Kind::kDevice : Place::Kind::kStraddles,
            range.memory + (address - at->first), nullptr, range.writable};
  }
  if (const auto host = host_range(address))
    return {address + bytes <= host->start + host->bytes ? Place::Kind::kPinned
                                                         : Place::Kind::kStraddles,
            pointer(address), host};
  if (overlaps_host_range(address, bytes)) return {Place::Kind::kStraddles, nullptr, nullptr};
  return {Place::Kind::kPageable, pointer(address), nullptr};
}

void free_memory_of(int device) {
  Core& core = Core::get();
  std::erase_if(core.device_ranges, [&](const auto& entry) {
    if (entry.second.device != device) return false;
    core.count(entry.second.mapped != nullptr ? "leaked.mapped" : "leaked.device_memory");
    release(entry.second);
    return true;
  });
  free_allocations();
  std::erase_if(core.host_ranges, [&](const auto& entry) {
    if (entry.second->device != device) return false;
    core.count(entry.second->allocated ? "leaked.pinned" : "leaked.registered");
    core.count(entry.second->allocated ? "live.pinned" : "live.registered", -1);
    if (entry.second->allocated) munmap(pointer(entry.first), whole_pages(entry.second->bytes));
    return true;
  });
}

}  // namespace fake

using namespace fake;

CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  if (const CUresult failed = enter("cuMemGetInfo_v2")) return failed;
  const int device = current_context()->device;
  *total = Core::get().gpu(device).memory_bytes;
  *free = *total - std::min<std::size_t>(*total, memory_used_bytes(device));
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  if (const CUresult failed = enter("cuMemAlloc_v2")) return failed;
  Core& core = Core::get();
  core.count("allocations");
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture("cuMemAlloc_v2")) return refused;
  const int device = current_context()->device;
  DeviceRange range{.bytes = bytes, .mapped_bytes = whole_pages(bytes), .device = device};
  if (!memory_fits(device, range.mapped_bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  range.memory_fd = memfd_create("fake-device-memory", MFD_CLOEXEC);
  if (range.memory_fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  if (ftruncate(range.memory_fd, static_cast<off_t>(range.mapped_bytes)) != 0) {
    close(range.memory_fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return add_range(range, address);
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  if (const CUresult failed = enter("cuMemFree_v2")) return failed;
  if (address == 0) return CUDA_SUCCESS;
  Core& core = Core::get();
  Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture("cuMemFree_v2")) return refused;
  wait_all_idle(lock, current_context());  // as the real one does, unasked
  const auto at = core.device_ranges.find(address);
  if (at == core.device_ranges.end() || at->second.imported || at->second.mapped != nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  release(at->second);
  core.device_ranges.erase(at);
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address) {
  if (const CUresult failed = enter("cuMemGetAddressRange_v2")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto at = device_range(address);
  if (at == core.device_ranges.end()) return CUDA_ERROR_NOT_FOUND;
  if (base != nullptr) *base = at->first;
  if (bytes != nullptr) *bytes = at->second.bytes;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address) {
  if (const CUresult failed = enter("cuPointerGetAttribute")) return failed;
  const Lock lock(Core::get().mutex);
  const auto at = device_range(address);
  const bool on_device = at != Core::get().device_ranges.end();
  const auto host = on_device ? nullptr : host_range(address);
  if (!on_device && host == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
    *static_cast<unsigned*>(data) = on_device ? 2 : 1;
  else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
    *static_cast<int*>(data) = on_device ? at->second.device : host->device;
  else
    return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** host, std::size_t bytes, unsigned flags) {
  if (const CUresult failed = enter("cuMemHostAlloc")) return failed;
  Core& core = Core::get();
  core.count("allocations");
  if (bytes == 0 || flags > 7) return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture("cuMemHostAlloc")) return refused;
  void* mapped =
      mmap(nullptr, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto start = reinterpret_cast<std::uintptr_t>(mapped);
  core.host_ranges.emplace(
      start, std::make_shared<HostRange>(HostRange{start, bytes, true, current_context()->device}));
  core.count("live.pinned");
  *host = mapped;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void* host) {
  if (const CUresult failed = enter("cuMemFreeHost")) return failed;
  const Lock lock(Core::get().mutex);
  if (const CUresult refused = refused_by_capture("cuMemFreeHost")) return refused;
  return remove_host_range(host, true, "cuMemFreeHost");
}

CUresult cuMemHostRegister_v2(void* host, std::size_t bytes, unsigned flags) {
  if (const CUresult failed = enter("cuMemHostRegister_v2")) return failed;
  Core& core = Core::get();
  core.count("allocations");
  if (host == nullptr || bytes == 0 || flags > 15) return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture("cuMemHostRegister_v2")) return refused;
  const auto start = reinterpret_cast<std::uintptr_t>(host);
  const std::uintptr_t page = start / kPage * kPage;
  std::vector<unsigned char> resident(whole_pages(start + bytes - page) / kPage);
  // ENOMEM says that some of it is not mapped at all.
  if (mincore(pointer(page), start + bytes - page, resident.data()) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  // Whole pages are registered: two ranges on one page are one too many.
  if (overlaps_host_range(page, whole_pages(start + bytes - page)))
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  core.host_ranges.emplace(start, std::make_shared<HostRange>(
                                      HostRange{start, bytes, false, current_context()->device}));
  core.count("live.registered");
  return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* host) {
  if (const CUresult failed = enter("cuMemHostUnregister")) return failed;
  const Lock lock(Core::get().mutex);
  if (const CUresult refused = refused_by_capture("cuMemHostUnregister")) return refused;
  return remove_host_range(host, false, "cuMemHostUnregister");
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* host, unsigned flags) {
  if (const CUresult failed = enter("cuMemHostGetDevicePointer_v2")) return failed;
  const Lock lock(Core::get().mutex);
  if (flags != 0 || host_range(reinterpret_cast<std::uintptr_t>(host)) == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  *address = reinterpret_cast<std::uintptr_t>(host);
  return CUDA_SUCCESS;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  if (const CUresult failed = enter("cuIpcGetMemHandle")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const auto at = device_range(address);
  if (at == core.device_ranges.end() || at->second.imported || at->second.mapped != nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const DeviceRange& range = at->second;
  const IpcHandle inside{getpid(), range.memory_fd, range.device, range.bytes, range.mapped_bytes};
  *handle = {};
  std::memcpy(handle->reserved, &inside, sizeof inside);
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags) {
  if (const CUresult failed = enter("cuIpcOpenMemHandle_v2")) return failed;
  if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
  IpcHandle inside{};
  std::memcpy(&inside, handle.reserved, sizeof inside);
  if (inside.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT;  // not in the exporter itself
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", inside.pid, inside.memory_fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const DeviceRange range{.bytes = inside.bytes,
                          .mapped_bytes = inside.mapped_bytes,
                          .memory_fd = fd,
                          .device = inside.device,
                          .imported = true};
  return add_range(range, address);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  if (const CUresult failed = enter("cuIpcCloseMemHandle")) return failed;
  Core& core = Core::get();
  Lock lock(core.mutex);
  wait_all_idle(lock, current_context());
  const auto at = core.device_ranges.find(address);
  if (at == core.device_ranges.end() || !at->second.imported) return CUDA_ERROR_INVALID_VALUE;
  release(at->second);
  core.device_ranges.erase(at);
  return CUDA_SUCCESS;
}
