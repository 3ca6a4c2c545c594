#include "cuda/driver.hpp"

#include <dlfcn.h>

#include <string>
#include <string_view>

namespace gslice::cuda {
namespace {

constexpr int kOldestVersion = 12000;

Status lacking(std::string message) {
  return Status::Error(Code::kFailedPrecondition, std::move(message));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

bool is_mps(CUresult result) {
  return result >= CUDA_ERROR_MPS_CONNECTION_FAILED && result <= CUDA_ERROR_MPS_CLIENT_TERMINATED;
}

Code code_of(CUresult result) {
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return Code::kResourceExhausted;
  if (result == CUDA_ERROR_NO_DEVICE || result == CUDA_ERROR_INVALID_DEVICE)
    return Code::kFailedPrecondition;
  return is_mps(result) ? Code::kUnavailable : Code::kInternal;
}

// Asks the driver for entries, and remembers the first one that is missing.
class Resolver {
 public:
  using GetProcAddress = CUresult (*)(const char* symbol, void** entry, int version,
                                      std::uint64_t flags, int* found);

  explicit Resolver(GetProcAddress get) : get_(get) {}

  template <typename Entry>
  void required(Entry*& entry, const char* name, int version) {
    optional(entry, name, version);
    if (entry == nullptr && missing_.empty()) missing_ = name;
  }
  template <typename Entry>
  void optional(Entry*& entry, const char* name, int version) {
    void* address = nullptr;
    int found = 0;
    if (get_(name, &address, version, 0, &found) == CUDA_SUCCESS)
      entry = reinterpret_cast<Entry*>(address);
  }
  std::string_view missing() const { return missing_; }

 private:
  const GetProcAddress get_;
  std::string_view missing_;
};

}  // namespace

// The errors that cuda.h says leave the process in an inconsistent state, those of memory and links
// that no longer hold what was written, and an MPS server that has dropped its client. Of an
// unknown error nothing better can be said.
bool device_lost(CUresult result) {
  switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_MPS_CONNECTION_FAILED:
    case CUDA_ERROR_MPS_RPC_FAILURE:
    case CUDA_ERROR_MPS_SERVER_NOT_READY:
    case CUDA_ERROR_MPS_CLIENT_TERMINATED:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_UNKNOWN:
      return true;
    default:
      return false;
  }
}

Result<const Driver*> Driver::get() {
  static Driver driver;
  static const Status loaded = driver.load();
  if (!loaded.ok()) return loaded;
  return &driver;
}

Status Driver::check(CUresult result, const char* function) const {
  if (result == CUDA_SUCCESS) return Status::Ok();
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) name = "CUDA error";
  if (cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr)
    text = "this driver does not say what it means";
  std::string message =
      std::string(function) + ": " + name + " (" + std::to_string(result) + "): " + text;
  if (is_mps(result)) message += "; see control.log and server.log of the GPU's MPS daemon";
  return Status::Error(code_of(result), std::move(message));
}

Status Driver::load() {
  // Never closed: the driver has threads and exit handlers of its own.
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return lacking(std::string("no NVIDIA driver: ") + dlerror());
  const auto get_version =
      reinterpret_cast<CUresult (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
  if (get_version == nullptr || get_version(&version) != CUDA_SUCCESS)
    return lacking("libcuda.so.1 does not tell its version; install the NVIDIA driver anew");
  if (version < kOldestVersion)
    return lacking("the NVIDIA driver speaks CUDA " + version_text(version) + ", gslice needs " +
                   version_text(kOldestVersion) + "; update the driver");
  const auto get =
      reinterpret_cast<Resolver::GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (get == nullptr)
    return lacking("libcuda.so.1 has no cuGetProcAddress_v2; install the NVIDIA driver anew");

  Resolver find(get);
  find.required(cuInit, "cuInit", 2000);
  find.required(cuGetErrorName, "cuGetErrorName", 6000);
  find.required(cuGetErrorString, "cuGetErrorString", 6000);
  find.required(cuDeviceGet, "cuDeviceGet", 2000);
  find.required(cuDeviceGetName, "cuDeviceGetName", 2000);
  find.required(cuDeviceGetUuid, "cuDeviceGetUuid", 11040);
  find.required(cuDeviceGetAttribute, "cuDeviceGetAttribute", 2000);
  find.required(cuDeviceTotalMem, "cuDeviceTotalMem", 3020);
  find.required(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000);
  find.required(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease", 11000);
  find.required(cuCtxSetCurrent, "cuCtxSetCurrent", 4000);
  find.required(cuMemGetInfo, "cuMemGetInfo", 3020);
  find.required(cuMemAlloc, "cuMemAlloc", 3020);
  find.required(cuMemFree, "cuMemFree", 3020);
  find.required(cuMemHostAlloc, "cuMemHostAlloc", 2020);
  find.required(cuMemFreeHost, "cuMemFreeHost", 2000);
  find.required(cuMemHostRegister, "cuMemHostRegister", 6050);
  find.required(cuMemHostUnregister, "cuMemHostUnregister", 4000);
  find.required(cuMemGetAllocationGranularity, "cuMemGetAllocationGranularity", 10020);
  find.required(cuMemCreate, "cuMemCreate", 10020);
  find.required(cuMemRelease, "cuMemRelease", 10020);
  find.required(cuMemExportToShareableHandle, "cuMemExportToShareableHandle", 10020);
  find.required(cuMemImportFromShareableHandle, "cuMemImportFromShareableHandle", 10020);
  find.required(cuMemAddressReserve, "cuMemAddressReserve", 10020);
  find.required(cuMemAddressFree, "cuMemAddressFree", 10020);
  find.required(cuMemMap, "cuMemMap", 10020);
  find.required(cuMemUnmap, "cuMemUnmap", 10020);
  find.required(cuMemSetAccess, "cuMemSetAccess", 10020);
  find.required(cuMemcpyHtoD, "cuMemcpyHtoD", 3020);
  find.required(cuMemcpyAsync, "cuMemcpyAsync", 4000);
  find.required(cuMemsetD8Async, "cuMemsetD8Async", 3020);
  find.optional(cuMemcpyBatchAsync, "cuMemcpyBatchAsync", 12080);
  find.required(cuStreamCreate, "cuStreamCreate", 2000);
  find.required(cuStreamDestroy, "cuStreamDestroy", 4000);
  find.required(cuStreamQuery, "cuStreamQuery", 2000);
  find.required(cuStreamSynchronize, "cuStreamSynchronize", 2000);
  find.required(cuStreamWaitEvent, "cuStreamWaitEvent", 3020);
  find.required(cuEventCreate, "cuEventCreate", 2000);
  find.required(cuEventDestroy, "cuEventDestroy", 4000);
  find.required(cuEventRecord, "cuEventRecord", 2000);
  find.required(cuEventQuery, "cuEventQuery", 2000);
  find.required(cuEventElapsedTime, "cuEventElapsedTime", 2000);
  find.required(cuGraphLaunch, "cuGraphLaunch", 10000);
  find.optional(cuDeviceGetDevResource, "cuDeviceGetDevResource", 12040);
  find.optional(cuDevSmResourceSplitByCount, "cuDevSmResourceSplitByCount", 12040);
  find.optional(cuDevResourceGenerateDesc, "cuDevResourceGenerateDesc", 12040);
  find.optional(cuGreenCtxCreate, "cuGreenCtxCreate", 12040);
  find.optional(cuGreenCtxDestroy, "cuGreenCtxDestroy", 12040);
  find.optional(cuGreenCtxGetDevResource, "cuGreenCtxGetDevResource", 12040);
  find.optional(cuGreenCtxStreamCreate, "cuGreenCtxStreamCreate", 12050);
  if (find.missing().empty()) return Status::Ok();
  return lacking("the NVIDIA driver (CUDA " + version_text(version) + ") has no " +
                 std::string(find.missing()) + "; install it anew");
}

}  // namespace gslice::cuda
