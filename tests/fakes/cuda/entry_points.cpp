// cuGetProcAddress: an entry by its base name, as the newest variant no newer than the version that
// was asked for. The versions are those of NVIDIA's cudaTypedefs.h.
#include <cstring>

#include "core.hpp"

namespace {

struct EntryPoint {
  const char* name;
  int version;
  void* function;
};

#define FAKE_ENTRY(name, version, function) {#name, version, reinterpret_cast<void*>(&function)}

const EntryPoint kEntryPoints[] = {
    FAKE_ENTRY(cuInit, 2000, cuInit),
    FAKE_ENTRY(cuDriverGetVersion, 2020, cuDriverGetVersion),
    FAKE_ENTRY(cuGetProcAddress, 12000, cuGetProcAddress_v2),
    FAKE_ENTRY(cuGetErrorName, 6000, cuGetErrorName),
    FAKE_ENTRY(cuGetErrorString, 6000, cuGetErrorString),
    FAKE_ENTRY(cuDeviceGetCount, 2000, cuDeviceGetCount),
    FAKE_ENTRY(cuDeviceGet, 2000, cuDeviceGet),
    FAKE_ENTRY(cuDeviceGetName, 2000, cuDeviceGetName),
    FAKE_ENTRY(cuDeviceGetUuid, 11040, cuDeviceGetUuid_v2),
    FAKE_ENTRY(cuDeviceGetAttribute, 2000, cuDeviceGetAttribute),
    FAKE_ENTRY(cuDeviceTotalMem, 3020, cuDeviceTotalMem_v2),
    FAKE_ENTRY(cuDeviceGetPCIBusId, 4010, cuDeviceGetPCIBusId),
    FAKE_ENTRY(cuDevicePrimaryCtxRetain, 7000, cuDevicePrimaryCtxRetain),
    FAKE_ENTRY(cuDevicePrimaryCtxRelease, 11000, cuDevicePrimaryCtxRelease_v2),
    FAKE_ENTRY(cuDevicePrimaryCtxGetState, 7000, cuDevicePrimaryCtxGetState),
    FAKE_ENTRY(cuCtxSetCurrent, 4000, cuCtxSetCurrent),
    FAKE_ENTRY(cuCtxGetCurrent, 4000, cuCtxGetCurrent),
    FAKE_ENTRY(cuCtxPushCurrent, 4000, cuCtxPushCurrent_v2),
    FAKE_ENTRY(cuCtxPopCurrent, 4000, cuCtxPopCurrent_v2),
    FAKE_ENTRY(cuCtxGetDevice, 2000, cuCtxGetDevice),
    FAKE_ENTRY(cuCtxGetDevice, 13000, cuCtxGetDevice_v2),
    FAKE_ENTRY(cuCtxSynchronize, 2000, cuCtxSynchronize),
    FAKE_ENTRY(cuCtxSynchronize, 13000, cuCtxSynchronize_v2),
    FAKE_ENTRY(cuCtxGetStreamPriorityRange, 5050, cuCtxGetStreamPriorityRange),
    FAKE_ENTRY(cuDeviceGetDevResource, 12040, cuDeviceGetDevResource),
    FAKE_ENTRY(cuDevSmResourceSplitByCount, 12040, cuDevSmResourceSplitByCount),
    FAKE_ENTRY(cuDevResourceGenerateDesc, 12040, cuDevResourceGenerateDesc),
    FAKE_ENTRY(cuGreenCtxCreate, 12040, cuGreenCtxCreate),
    FAKE_ENTRY(cuGreenCtxDestroy, 12040, cuGreenCtxDestroy),
    FAKE_ENTRY(cuGreenCtxGetDevResource, 12040, cuGreenCtxGetDevResource),
    FAKE_ENTRY(cuGreenCtxStreamCreate, 12050, cuGreenCtxStreamCreate),
    FAKE_ENTRY(cuMemGetInfo, 3020, cuMemGetInfo_v2),
    FAKE_ENTRY(cuMemAlloc, 3020, cuMemAlloc_v2),
    FAKE_ENTRY(cuMemFree, 3020, cuMemFree_v2),
    FAKE_ENTRY(cuMemHostAlloc, 2020, cuMemHostAlloc),
    FAKE_ENTRY(cuMemFreeHost, 2000, cuMemFreeHost),
    FAKE_ENTRY(cuMemHostRegister, 6050, cuMemHostRegister_v2),
    FAKE_ENTRY(cuMemHostUnregister, 4000, cuMemHostUnregister),
    FAKE_ENTRY(cuMemHostGetDevicePointer, 3020, cuMemHostGetDevicePointer_v2),
    FAKE_ENTRY(cuMemGetAddressRange, 3020, cuMemGetAddressRange_v2),
    FAKE_ENTRY(cuPointerGetAttribute, 4000, cuPointerGetAttribute),
    FAKE_ENTRY(cuIpcGetMemHandle, 4010, cuIpcGetMemHandle),
    FAKE_ENTRY(cuIpcOpenMemHandle, 11000, cuIpcOpenMemHandle_v2),
    FAKE_ENTRY(cuIpcCloseMemHandle, 4010, cuIpcCloseMemHandle),
    FAKE_ENTRY(cuMemGetAllocationGranularity, 10020, cuMemGetAllocationGranularity),
    FAKE_ENTRY(cuMemCreate, 10020, cuMemCreate),
    FAKE_ENTRY(cuMemRelease, 10020, cuMemRelease),
    FAKE_ENTRY(cuMemExportToShareableHandle, 10020, cuMemExportToShareableHandle),
    FAKE_ENTRY(cuMemImportFromShareableHandle, 10020, cuMemImportFromShareableHandle),
    FAKE_ENTRY(cuMemAddressReserve, 10020, cuMemAddressReserve),
    FAKE_ENTRY(cuMemAddressFree, 10020, cuMemAddressFree),
    FAKE_ENTRY(cuMemMap, 10020, cuMemMap),
    FAKE_ENTRY(cuMemUnmap, 10020, cuMemUnmap),
    FAKE_ENTRY(cuMemSetAccess, 10020, cuMemSetAccess),
    FAKE_ENTRY(cuMemcpyHtoD, 3020, cuMemcpyHtoD_v2),
    FAKE_ENTRY(cuMemcpyDtoH, 3020, cuMemcpyDtoH_v2),
    FAKE_ENTRY(cuMemcpyHtoDAsync, 3020, cuMemcpyHtoDAsync_v2),
    FAKE_ENTRY(cuMemcpyDtoHAsync, 3020, cuMemcpyDtoHAsync_v2),
    FAKE_ENTRY(cuMemcpyDtoDAsync, 3020, cuMemcpyDtoDAsync_v2),
    FAKE_ENTRY(cuMemcpyAsync, 4000, cuMemcpyAsync),
    FAKE_ENTRY(cuMemsetD8Async, 3020, cuMemsetD8Async),
    FAKE_ENTRY(cuMemcpyBatchAsync, 12080, cuMemcpyBatchAsync),
    FAKE_ENTRY(cuMemcpyBatchAsync, 13000, cuMemcpyBatchAsync_v2),
    FAKE_ENTRY(cuStreamCreate, 2000, cuStreamCreate),
    FAKE_ENTRY(cuStreamCreateWithPriority, 5050, cuStreamCreateWithPriority),
    FAKE_ENTRY(cuStreamDestroy, 4000, cuStreamDestroy_v2),
    FAKE_ENTRY(cuStreamQuery, 2000, cuStreamQuery),
    FAKE_ENTRY(cuStreamSynchronize, 2000, cuStreamSynchronize),
    FAKE_ENTRY(cuStreamWaitEvent, 3020, cuStreamWaitEvent),
    FAKE_ENTRY(cuStreamGetCtx, 9020, cuStreamGetCtx),
    FAKE_ENTRY(cuStreamGetCtx, 12050, cuStreamGetCtx_v2),
    FAKE_ENTRY(cuStreamGetPriority, 5050, cuStreamGetPriority),
    FAKE_ENTRY(cuStreamGetFlags, 5050, cuStreamGetFlags),
    FAKE_ENTRY(cuLaunchHostFunc, 10000, cuLaunchHostFunc),
    FAKE_ENTRY(cuEventCreate, 2000, cuEventCreate),
    FAKE_ENTRY(cuEventDestroy, 4000, cuEventDestroy_v2),
    FAKE_ENTRY(cuEventRecord, 2000, cuEventRecord),
    FAKE_ENTRY(cuEventQuery, 2000, cuEventQuery),
    FAKE_ENTRY(cuEventSynchronize, 2000, cuEventSynchronize),
    FAKE_ENTRY(cuEventElapsedTime, 2000, cuEventElapsedTime),
    FAKE_ENTRY(cuEventElapsedTime, 12080, cuEventElapsedTime_v2),
    FAKE_ENTRY(cuModuleLoadData, 2000, cuModuleLoadData),
    FAKE_ENTRY(cuModuleGetFunction, 2000, cuModuleGetFunction),
    FAKE_ENTRY(cuModuleUnload, 2000, cuModuleUnload),
    FAKE_ENTRY(cuLaunchKernel, 4000, cuLaunchKernel),
    FAKE_ENTRY(cuStreamBeginCapture, 10010, cuStreamBeginCapture_v2),
    FAKE_ENTRY(cuStreamEndCapture, 10000, cuStreamEndCapture),
    FAKE_ENTRY(cuStreamIsCapturing, 10000, cuStreamIsCapturing),
    FAKE_ENTRY(cuGraphInstantiateWithFlags, 11040, cuGraphInstantiateWithFlags),
    FAKE_ENTRY(cuGraphUpload, 11010, cuGraphUpload),
    FAKE_ENTRY(cuGraphLaunch, 10000, cuGraphLaunch),
    FAKE_ENTRY(cuGraphDestroy, 10000, cuGraphDestroy),
    FAKE_ENTRY(cuGraphExecDestroy, 10000, cuGraphExecDestroy),
};

#undef FAKE_ENTRY

}  // namespace

CUresult cuGetProcAddress_v2(const char* symbol, void** function, int cuda_version, cuuint64_t,
                             CUdriverProcAddressQueryResult* status) {
  *function = nullptr;
  if (cuda_version > fake::Machine::get().driver_version()) return CUDA_ERROR_INVALID_VALUE;
  CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  int newest = 0;
  for (const EntryPoint& entry : kEntryPoints) {
    if (std::strcmp(entry.name, symbol) != 0) continue;
    if (entry.version > cuda_version) {
      if (*function == nullptr) found = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    } else if (entry.version >= newest) {
      newest = entry.version;
      *function = entry.function;
      found = CU_GET_PROC_ADDRESS_SUCCESS;
    }
  }
  if (status != nullptr) *status = found;
  return CUDA_SUCCESS;
}
