#include "core.hpp"

#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace fake {
namespace {

thread_local std::vector<CUcontext> current_stack;

}  // namespace

std::int64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return std::int64_t{ts.tv_sec} * 1'000'000'000 + ts.tv_nsec;
}

Core& Core::get() {
  static auto* core = new Core;
  return *core;
}

Core::Core() {
  counters = Table::create(Machine::get().process_path(getpid()));
  const std::size_t gpus = Machine::get().gpus().size();
  for (std::size_t device = 0; device < gpus; ++device)
    contexts.emplace_back().device = static_cast<int>(device);
}

const Gpu& Core::gpu(int device) const {
  return Machine::get().gpus()[static_cast<std::size_t>(device)];
}

int Core::device_count() const { return static_cast<int>(Machine::get().gpus().size()); }

int Core::effective_sms(int device) const { return gpu(device).sms; }

void Core::count(std::string_view name, std::int64_t by) {
  counters->at(name).fetch_add(static_cast<std::uint64_t>(by), std::memory_order_relaxed);
}

CUresult Core::violation(const std::string& what) {
  count("violations");
  const std::string line = "fake GPU: process " + std::to_string(getpid()) + ": " + what + "\n";
  std::fputs(line.c_str(), stderr);
  if (const auto& directory = Machine::get().directory(); !directory.empty())
    std::ofstream(directory / "violations", std::ios::app) << line;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult enter(const char* function, Needs needs) {
  Core& core = Core::get();
  core.count(function);
  if (needs == Needs::kNothing) return CUDA_SUCCESS;
  if (!core.initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (const int lost = core.lost; lost != CUDA_SUCCESS) return static_cast<CUresult>(lost);
  if (needs == Needs::kInit) return CUDA_SUCCESS;
  if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return current_context()->retained > 0 ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUcontext current_context() { return current_stack.empty() ? nullptr : current_stack.back(); }

namespace {

bool known(CUcontext context) {
  for (const CUctx_st& mine : Core::get().contexts)
    if (&mine == context) return true;
  return false;
}

}  // namespace
}  // namespace fake

using namespace fake;

CUresult cuCtxSetCurrent(CUcontext context) {
  if (const CUresult failed = enter("cuCtxSetCurrent", Needs::kInit)) return failed;
  if (context != nullptr && !known(context)) return CUDA_ERROR_INVALID_CONTEXT;
  if (!current_stack.empty()) current_stack.pop_back();
  if (context != nullptr) current_stack.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  if (const CUresult failed = enter("cuCtxGetCurrent", Needs::kInit)) return failed;
  *context = current_context();
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (const CUresult failed = enter("cuCtxPushCurrent_v2", Needs::kInit)) return failed;
  if (!known(context)) return CUDA_ERROR_INVALID_CONTEXT;
  current_stack.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (const CUresult failed = enter("cuCtxPopCurrent_v2")) return failed;
  *context = current_context();
  current_stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  if (const CUresult failed = enter("cuCtxGetDevice")) return failed;
  *device = current_context()->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext context) {
  if (const CUresult failed = enter("cuCtxGetDevice_v2", Needs::kInit)) return failed;
  if (context == nullptr) return cuCtxGetDevice(device);
  if (!known(context)) return CUDA_ERROR_INVALID_CONTEXT;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (const CUresult failed = enter("cuCtxGetStreamPriorityRange")) return failed;
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  if (const CUresult failed = enter("cuCtxSynchronize")) return failed;
  return cuCtxSynchronize_v2(current_context());
}

CUresult cuCtxSynchronize_v2(CUcontext context) {
  if (const CUresult failed = enter("cuCtxSynchronize_v2", Needs::kInit)) return failed;
  if (!known(context)) return CUDA_ERROR_INVALID_CONTEXT;
  Core& core = Core::get();
  core.count("synchronise");
  Lock lock(core.mutex);
  if (const CUresult refused = refused_by_capture("cuCtxSynchronize")) return refused;
  wait_all_idle(lock, context);
  return static_cast<CUresult>(core.lost.load());
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (const CUresult failed = enter("cuDevicePrimaryCtxRetain", Needs::kInit)) return failed;
  Core& core = Core::get();
  if (device < 0 || device >= core.device_count()) return CUDA_ERROR_INVALID_DEVICE;
  const Lock lock(core.mutex);
  *context = &core.contexts[static_cast<std::size_t>(device)];
  ++(*context)->retained;
  core.count("live.contexts");
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (const CUresult failed = enter("cuDevicePrimaryCtxRelease_v2", Needs::kInit)) return failed;
  Core& core = Core::get();
  if (device < 0 || device >= core.device_count()) return CUDA_ERROR_INVALID_DEVICE;
  Lock lock(core.mutex);
  CUctx_st& context = core.contexts[static_cast<std::size_t>(device)];
  if (context.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  core.count("live.contexts", -1);
  if (--context.retained > 0) return CUDA_SUCCESS;
  destroy_streams(lock, &context);
  free_memory_of(device);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (const CUresult failed = enter("cuDevicePrimaryCtxGetState", Needs::kInit)) return failed;
  Core& core = Core::get();
  if (device < 0 || device >= core.device_count()) return CUDA_ERROR_INVALID_DEVICE;
  const Lock lock(core.mutex);
  *flags = 0;
  *active = core.contexts[static_cast<std::size_t>(device)].retained > 0;
  return CUDA_SUCCESS;
}
