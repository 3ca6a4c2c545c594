// Every entry point that the fake exports, by the name that the library carries it under.
#pragma once

#include "types.hpp"

#define FAKE_API extern "C" __attribute__((visibility("default"))) CUresult

FAKE_API cuInit(unsigned flags);
FAKE_API cuDriverGetVersion(int* version);
FAKE_API cuGetProcAddress_v2(const char* symbol, void** function, int cuda_version,
                             cuuint64_t flags, CUdriverProcAddressQueryResult* status);
FAKE_API cuGetErrorName(CUresult error, const char** name);
FAKE_API cuGetErrorString(CUresult error, const char** text);

FAKE_API cuDeviceGetCount(int* count);
FAKE_API cuDeviceGet(CUdevice* device, int ordinal);
FAKE_API cuDeviceGetName(char* name, int length, CUdevice device);
FAKE_API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device);
FAKE_API cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device);
FAKE_API cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device);
FAKE_API cuDeviceGetPCIBusId(char* text, int length, CUdevice device);
FAKE_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
FAKE_API cuDevicePrimaryCtxRelease_v2(CUdevice device);
FAKE_API cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active);

FAKE_API cuCtxSetCurrent(CUcontext context);
FAKE_API cuCtxGetCurrent(CUcontext* context);
FAKE_API cuCtxPushCurrent_v2(CUcontext context);
FAKE_API cuCtxPopCurrent_v2(CUcontext* context);
FAKE_API cuCtxGetDevice(CUdevice* device);
FAKE_API cuCtxGetDevice_v2(CUdevice* device, CUcontext context);
FAKE_API cuCtxSynchronize(void);
FAKE_API cuCtxSynchronize_v2(CUcontext context);
FAKE_API cuCtxGetStreamPriorityRange(int* least, int* greatest);

FAKE_API cuDeviceGetDevResource(CUdevice device, CUdevResource* resource, CUdevResourceType type);
FAKE_API cuDevSmResourceSplitByCount(CUdevResource* groups, unsigned* count,
                                     const CUdevResource* from, CUdevResource* rest, unsigned flags,
                                     unsigned least);
FAKE_API cuDevResourceGenerateDesc(CUdevResourceDesc* description, CUdevResource* resources,
                                   unsigned count);
FAKE_API cuGreenCtxCreate(CUgreenCtx* green, CUdevResourceDesc description, CUdevice device,
                          unsigned flags);
FAKE_API cuGreenCtxDestroy(CUgreenCtx green);
FAKE_API cuGreenCtxGetDevResource(CUgreenCtx green, CUdevResource* resource,
                                  CUdevResourceType type);
FAKE_API cuGreenCtxStreamCreate(CUstream* stream, CUgreenCtx green, unsigned flags, int priority);

FAKE_API cuMemGetInfo_v2(std::size_t* free, std::size_t* total);
FAKE_API cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes);
FAKE_API cuMemFree_v2(CUdeviceptr address);
FAKE_API cuMemHostAlloc(void** host, std::size_t bytes, unsigned flags);
FAKE_API cuMemFreeHost(void* host);
FAKE_API cuMemHostRegister_v2(void* host, std::size_t bytes, unsigned flags);
FAKE_API cuMemHostUnregister(void* host);
FAKE_API cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* host, unsigned flags);
FAKE_API cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address);
FAKE_API cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr address);
FAKE_API cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address);
FAKE_API cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags);
FAKE_API cuIpcCloseMemHandle(CUdeviceptr address);

FAKE_API cuMemGetAllocationGranularity(std::size_t* bytes, const CUmemAllocationProp* wanted,
                                       CUmemAllocationGranularity_flags option);
FAKE_API cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes,
                     const CUmemAllocationProp* wanted, unsigned long long flags);
FAKE_API cuMemRelease(CUmemGenericAllocationHandle handle);
FAKE_API cuMemExportToShareableHandle(void* exported, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags);
FAKE_API cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* exported,
                                        CUmemAllocationHandleType type);
FAKE_API cuMemAddressReserve(CUdeviceptr* address, std::size_t bytes, std::size_t alignment,
                             CUdeviceptr wanted, unsigned long long flags);
FAKE_API cuMemAddressFree(CUdeviceptr address, std::size_t bytes);
FAKE_API cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags);
FAKE_API cuMemUnmap(CUdeviceptr address, std::size_t bytes);
FAKE_API cuMemSetAccess(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc* wanted,
                        std::size_t count);

FAKE_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes);
FAKE_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes);
FAKE_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream);
FAKE_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream);
FAKE_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream);
FAKE_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream);
FAKE_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream stream);
FAKE_API cuMemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                            std::size_t count, CUmemcpyAttributes* attributes,
                            std::size_t* attribute_starts, std::size_t attribute_count,
                            std::size_t* failed, CUstream stream);
FAKE_API cuMemcpyBatchAsync_v2(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                               std::size_t count, CUmemcpyAttributes* attributes,
                               std::size_t* attribute_starts, std::size_t attribute_count,
                               CUstream stream);

FAKE_API cuStreamCreate(CUstream* stream, unsigned flags);
FAKE_API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority);
FAKE_API cuStreamDestroy_v2(CUstream stream);
FAKE_API cuStreamQuery(CUstream stream);
FAKE_API cuStreamSynchronize(CUstream stream);
FAKE_API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
FAKE_API cuStreamGetCtx(CUstream stream, CUcontext* context);
FAKE_API cuStreamGetCtx_v2(CUstream stream, CUcontext* context, CUgreenCtx* green);
FAKE_API cuStreamGetPriority(CUstream stream, int* priority);
FAKE_API cuStreamGetFlags(CUstream stream, unsigned* flags);
FAKE_API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* user_data);

FAKE_API cuEventCreate(CUevent* event, unsigned flags);
FAKE_API cuEventDestroy_v2(CUevent event);
FAKE_API cuEventRecord(CUevent event, CUstream stream);
FAKE_API cuEventQuery(CUevent event);
FAKE_API cuEventSynchronize(CUevent event);
FAKE_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end);
FAKE_API cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end);

FAKE_API cuModuleLoadData(CUmodule* module, const void* image);
FAKE_API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name);
FAKE_API cuModuleUnload(CUmodule module);
FAKE_API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        CUstream stream, void** parameters, void** extra);

FAKE_API cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode);
FAKE_API cuStreamEndCapture(CUstream stream, CUgraph* graph);
FAKE_API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status);
FAKE_API cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph,
                                     unsigned long long flags);
FAKE_API cuGraphUpload(CUgraphExec executable, CUstream stream);
FAKE_API cuGraphLaunch(CUgraphExec executable, CUstream stream);
FAKE_API cuGraphDestroy(CUgraph graph);
FAKE_API cuGraphExecDestroy(CUgraphExec executable);
