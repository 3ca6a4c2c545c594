// libcuda as a table of entries, found when first asked for: gslice builds and imports without a
// driver. Every entry has the version it was declared at, so that a newer driver gives the same
// one.
#pragma once

#include "base/status.hpp"
#include "cuda/driver_types.hpp"

namespace gslice::cuda {

// True: nothing that this process asks of the device will ever succeed again; it must end.
bool device_lost(CUresult result);

struct Driver {
  // Of the process. kFailedPrecondition: no driver, or one that is too old; the message says which.
  static Result<const Driver*> get();

  // "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"
  Status check(CUresult result, const char* function) const;

  int version = 0;  // 13000: CUDA 13.0

  CUresult (*cuInit)(unsigned int flags) = nullptr;
  CUresult (*cuGetErrorName)(CUresult, const char**) = nullptr;
  CUresult (*cuGetErrorString)(CUresult, const char**) = nullptr;

  CUresult (*cuDeviceGet)(CUdevice*, int ordinal) = nullptr;
  CUresult (*cuDeviceGetName)(char*, int length, CUdevice) = nullptr;
  CUresult (*cuDeviceGetUuid)(CUuuid*, CUdevice) = nullptr;
  CUresult (*cuDeviceGetAttribute)(int*, int attribute, CUdevice) = nullptr;
  CUresult (*cuDeviceTotalMem)(std::size_t*, CUdevice) = nullptr;
  CUresult (*cuDevicePrimaryCtxRetain)(CUcontext*, CUdevice) = nullptr;
  CUresult (*cuDevicePrimaryCtxRelease)(CUdevice) = nullptr;
  CUresult (*cuCtxSetCurrent)(CUcontext) = nullptr;

  CUresult (*cuMemGetInfo)(std::size_t* free, std::size_t* total) = nullptr;
  CUresult (*cuMemAlloc)(CUdeviceptr*, std::size_t) = nullptr;
  CUresult (*cuMemFree)(CUdeviceptr) = nullptr;
  CUresult (*cuMemHostAlloc)(void**, std::size_t, unsigned int flags) = nullptr;
  CUresult (*cuMemFreeHost)(void*) = nullptr;
  CUresult (*cuMemHostRegister)(void*, std::size_t, unsigned int flags) = nullptr;
  CUresult (*cuMemHostUnregister)(void*) = nullptr;

  // Memory that another process can map by a descriptor. The driver counts who holds it.
  CUresult (*cuMemGetAllocationGranularity)(std::size_t*, const CUmemAllocationProp*,
                                            int option) = nullptr;
  CUresult (*cuMemCreate)(CUmemGenericAllocationHandle*, std::size_t, const CUmemAllocationProp*,
                          unsigned long long flags) = nullptr;
  CUresult (*cuMemRelease)(CUmemGenericAllocationHandle) = nullptr;
  CUresult (*cuMemExportToShareableHandle)(void* handle, CUmemGenericAllocationHandle, int type,
                                           unsigned long long flags) = nullptr;
  CUresult (*cuMemImportFromShareableHandle)(CUmemGenericAllocationHandle*, void* handle,
                                             int type) = nullptr;
  CUresult (*cuMemAddressReserve)(CUdeviceptr*, std::size_t, std::size_t alignment,
                                  CUdeviceptr wanted, unsigned long long flags) = nullptr;
  CUresult (*cuMemAddressFree)(CUdeviceptr, std::size_t) = nullptr;
  CUresult (*cuMemMap)(CUdeviceptr, std::size_t, std::size_t offset, CUmemGenericAllocationHandle,
                       unsigned long long flags) = nullptr;
  CUresult (*cuMemUnmap)(CUdeviceptr, std::size_t) = nullptr;
  CUresult (*cuMemSetAccess)(CUdeviceptr, std::size_t, const CUmemAccessDesc*,
                             std::size_t count) = nullptr;

  CUresult (*cuMemcpyHtoD)(CUdeviceptr to, const void* from, std::size_t) = nullptr;
  // Between any two of device, pinned and registered memory: the addresses tell the direction.
  CUresult (*cuMemcpyAsync)(CUdeviceptr to, CUdeviceptr from, std::size_t, CUstream) = nullptr;
  CUresult (*cuMemsetD8Async)(CUdeviceptr, unsigned char, std::size_t, CUstream) = nullptr;
  // Null before CUDA 12.8. As 12.8 declared it; newer drivers keep that one beside their own.
  CUresult (*cuMemcpyBatchAsync)(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                                 std::size_t count, CUmemcpyAttributes*, std::size_t* indices,
                                 std::size_t attributes, std::size_t* failed, CUstream) = nullptr;

  CUresult (*cuStreamCreate)(CUstream*, unsigned int flags) = nullptr;
  CUresult (*cuStreamDestroy)(CUstream) = nullptr;
  CUresult (*cuStreamQuery)(CUstream) = nullptr;
  CUresult (*cuStreamSynchronize)(CUstream) = nullptr;
  CUresult (*cuStreamWaitEvent)(CUstream, CUevent, unsigned int flags) = nullptr;
  CUresult (*cuEventCreate)(CUevent*, unsigned int flags) = nullptr;
  CUresult (*cuEventDestroy)(CUevent) = nullptr;
  CUresult (*cuEventRecord)(CUevent, CUstream) = nullptr;
  CUresult (*cuEventQuery)(CUevent) = nullptr;
  CUresult (*cuEventElapsedTime)(float* ms, CUevent from, CUevent to) = nullptr;
  CUresult (*cuGraphLaunch)(CUgraphExec, CUstream) = nullptr;

  // Parts of a device's SMs, and streams that run on one. Null before CUDA 12.5.
  CUresult (*cuDeviceGetDevResource)(CUdevice, CUdevResource*, int type) = nullptr;
  CUresult (*cuDevSmResourceSplitByCount)(CUdevResource* groups, unsigned* count,
                                          const CUdevResource* from, CUdevResource* rest,
                                          unsigned flags, unsigned least) = nullptr;
  CUresult (*cuDevResourceGenerateDesc)(CUdevResourceDesc*, CUdevResource*,
                                        unsigned count) = nullptr;
  CUresult (*cuGreenCtxCreate)(CUgreenCtx*, CUdevResourceDesc, CUdevice, unsigned flags) = nullptr;
  CUresult (*cuGreenCtxDestroy)(CUgreenCtx) = nullptr;
  CUresult (*cuGreenCtxGetDevResource)(CUgreenCtx, CUdevResource*, int type) = nullptr;
  CUresult (*cuGreenCtxStreamCreate)(CUstream*, CUgreenCtx, unsigned flags, int priority) = nullptr;
  bool has_green_contexts() const { return cuGreenCtxStreamCreate != nullptr; }  // the newest

 private:
  Status load();
};

}  // namespace gslice::cuda
