// Initialisation and what can be asked of a device without a context.
#include <cstdio>
#include <cstring>

#include "core.hpp"

using namespace fake;

namespace {

const Gpu* gpu_of(CUdevice device) {
  const Core& core = Core::get();
  return device >= 0 && device < core.device_count() ? &core.gpu(device) : nullptr;
}

CUuuid parse_uuid(const std::string& text) {
  CUuuid uuid{};
  std::size_t digits = 0;
  for (const char c : text.substr(text.find('-') + 1)) {
    if (c == '-' || digits == 32) continue;
    const int value = c <= '9' ? c - '0' : c - 'a' + 10;
    char& byte = uuid.bytes[digits++ / 2];
    byte = static_cast<char>(byte * 16 + value);
  }
  return uuid;
}

}  // namespace

CUresult cuInit(unsigned flags) {
  if (const CUresult failed = enter("cuInit", Needs::kNothing)) return failed;
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return Core::get().initialise();
}

CUresult cuDriverGetVersion(int* version) {
  *version = Machine::get().driver_version();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  if (const CUresult failed = enter("cuDeviceGetCount", Needs::kInit)) return failed;
  *count = Core::get().device_count();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (const CUresult failed = enter("cuDeviceGet", Needs::kInit)) return failed;
  if (gpu_of(ordinal) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  if (const CUresult failed = enter("cuDeviceGetName", Needs::kInit)) return failed;
  const Gpu* gpu = gpu_of(device);
  if (gpu == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<std::size_t>(length), "%s", gpu->name.c_str());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  if (const CUresult failed = enter("cuDeviceGetUuid_v2", Needs::kInit)) return failed;
  const Gpu* gpu = gpu_of(device);
  if (gpu == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *uuid = parse_uuid(gpu->uuid);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  if (const CUresult failed = enter("cuDeviceTotalMem_v2", Needs::kInit)) return failed;
  const Gpu* gpu = gpu_of(device);
  if (gpu == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = gpu->memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
  if (const CUresult failed = enter("cuDeviceGetPCIBusId", Needs::kInit)) return failed;
  const Gpu* gpu = gpu_of(device);
  if (gpu == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  // CUDA writes the domain with four digits, NVML with eight.
  std::snprintf(text, static_cast<std::size_t>(length), "%s", gpu->pci_bus_id.c_str() + 4);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (const CUresult failed = enter("cuDeviceGetAttribute", Needs::kInit)) return failed;
  const Gpu* gpu = gpu_of(device);
  if (gpu == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  unsigned domain = 0, bus = 0, slot = 0;
  std::sscanf(gpu->pci_bus_id.c_str(), "%x:%x:%x", &domain, &bus, &slot);
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = Core::get().effective_sms(device);
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = gpu->capability_major;
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      *value = gpu->capability_minor;
      break;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
      *value = static_cast<int>(domain);
      break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      *value = static_cast<int>(bus);
      break;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
      *value = static_cast<int>(slot);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      *value = 32;
      break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      *value = 1'980'000;
      break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      *value = 3;
      break;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      *value = static_cast<int>(gpu->fields.number("exports_memory", 1));
      break;
    case CU_DEVICE_ATTRIBUTE_MPS_ENABLED:
      *value = Core::get().mps.attached();
      break;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      *value = 1;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}
