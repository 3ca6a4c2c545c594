#include "core.hpp"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace fake {
namespace {

thread_local std::vector<CUcontext> current_stack;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) words.push_back(word);
  return words;
}

bool is_partitioned(const Gpu& gpu) { return gpu.fields.number("mig", 0) > 0; }

std::string every_gpu() {
  std::string uuids;
  for (const Gpu& gpu : Machine::get().gpus())
    if (!is_partitioned(gpu)) uuids += gpu.uuid + ",";
  return uuids;
}

// CUDA enumerates one MIG instance, and then no GPU beside it.
std::vector<const Gpu*> as_enumerated(const std::vector<const Gpu*>& visible) {
  for (const Gpu* gpu : visible)
    if (!gpu->parent.empty()) return {gpu};
  return visible;
}

// Of those that there are, what CUDA_VISIBLE_DEVICES leaves: by ordinal or by the beginning of a
// UUID, and none after the first that is unknown.
std::vector<const Gpu*> visible_gpus(const std::string& uuids) {
  std::vector<const Gpu*> there;
  for (const std::string& uuid : split(uuids))
    for (const Gpu& gpu : Machine::get().gpus())
      if (gpu.uuid == uuid) there.push_back(&gpu);
  const char* chosen = std::getenv("CUDA_VISIBLE_DEVICES");
  if (chosen == nullptr) return as_enumerated(there);
  std::vector<const Gpu*> visible;
  for (const std::string& word : split(chosen)) {
    const bool ordinal = !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
    const auto found = std::ranges::find_if(there, [&](const Gpu*& gpu) {
      return ordinal ? word == std::to_string(&gpu - there.data())
                     : !word.empty() && gpu->uuid.starts_with(word);
    });
    if (found == there.end()) break;
    visible.push_back(*found);
  }
  return as_enumerated(visible);
}

}  // namespace

void run_host_function(CUhostFn function, void* user_data) {
  Core& core = Core::get();
  {
    const std::lock_guard lock(core.host_functions_mutex);
    core.host_functions.insert(std::this_thread::get_id());
  }
  function(user_data);
  const std::lock_guard lock(core.host_functions_mutex);
  core.host_functions.erase(std::this_thread::get_id());
}

bool in_host_function() {
  Core& core = Core::get();
  const std::lock_guard lock(core.host_functions_mutex);
  return core.host_functions.contains(std::this_thread::get_id());
}

std::int64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return std::int64_t{ts.tv_sec} * 1'000'000'000 + ts.tv_nsec;
}

Core& Core::get() {
  static auto* core = new Core;
  return *core;
}

Core::Core()
    : counters(Table::create(Machine::get().process_path(getpid()))),
      mps_error_(&counters->at("mps.error")) {
  count("live.operations", 0);
}

CUresult Core::initialise() {
  const Lock lock(mutex);
  if (initialised) return CUDA_SUCCESS;
  if (const CUresult refused = mps.attach()) return refused;
  gpus = visible_gpus(mps.attached() ? mps.gpus() : every_gpu());
  if (gpus.empty()) return CUDA_ERROR_NO_DEVICE;
  for (int device = 0; device < device_count(); ++device) {
    contexts.emplace_back().device = device;
    count("sms." + gpu(device).uuid, effective_sms(device));
  }
  count("mps.server", mps.server_pid());
  initialised = true;
  return CUDA_SUCCESS;
}

int Core::effective_sms(int device) const { return mps.sms(gpu(device).sms, gpu(device).sms_step); }

CUresult Core::lost() const {
  if (const int lost = lost_; lost != CUDA_SUCCESS) return static_cast<CUresult>(lost);
  return static_cast<CUresult>(mps_error_->load());
}

void Core::lose(CUresult result, int device) {
  int none = CUDA_SUCCESS;
  if (!lost_.compare_exchange_strong(none, result)) return;
  if (mps.attached()) mps.report_fault(result, gpu(device).uuid);
}

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
  if (in_host_function()) {
    core.violation(std::string(function) + ": in a host function");
    return CUDA_ERROR_NOT_PERMITTED;
  }
  if (const CUresult planned = core.plan.meet_call(function)) return planned;
  if (needs == Needs::kNothing) return CUDA_SUCCESS;
  if (!core.initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (const CUresult lost = core.lost()) return lost;
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
  if (const CUresult refused = refused_by_any_capture("cuCtxSynchronize", context)) return refused;
  wait_all_idle(lock, context);
  return core.lost();
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
