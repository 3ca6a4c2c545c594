// Green contexts: a device's SMs in groups, and contexts of several. Of a GPU's record, `sm_group`
// is the size of the smallest group, and `sm_groups` how many there can be: a real one may make
// fewer than would fit.
#include <algorithm>

#include "core.hpp"

namespace fake {
namespace {

unsigned group_sms(const Gpu& gpu) {
  const int usual = gpu.capability_major >= 9 ? 8 : gpu.capability_major == 8 ? 4 : 2;
  return static_cast<unsigned>(gpu.fields.number("sm_group", usual));
}

unsigned groups_that_fit(const CUdevResource& from, unsigned each) {
  const auto most = Core::get().gpu(from.own.device).fields.number("sm_groups", 1 << 20);
  return std::min(from.sm.smCount / each, static_cast<unsigned>(most));
}

CUdevResource part(const CUdevResource& from, unsigned split, unsigned first_sm, unsigned sms) {
  CUdevResource made = from;
  made.own.split = split;
  made.own.first_sm = first_sm;
  made.sm.smCount = sms;
  return made;
}

bool is_sms(const CUdevResource& resource) { return resource.type == CU_DEV_RESOURCE_TYPE_SM; }

}  // namespace
}  // namespace fake

using namespace fake;

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource* resource, CUdevResourceType type) {
  if (const CUresult failed = enter("cuDeviceGetDevResource", Needs::kInit)) return failed;
  const Core& core = Core::get();
  if (device < 0 || device >= core.device_count()) return CUDA_ERROR_INVALID_DEVICE;
  if (type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  *resource = {};
  resource->type = type;
  resource->own.device = device;
  const unsigned group = group_sms(core.gpu(device));
  resource->sm = {static_cast<unsigned>(core.effective_sms(device)), group, group};
  return CUDA_SUCCESS;
}

CUresult cuDevSmResourceSplitByCount(CUdevResource* groups, unsigned* count,
                                     const CUdevResource* from, CUdevResource* rest, unsigned flags,
                                     unsigned least) {
  if (const CUresult failed = enter("cuDevSmResourceSplitByCount", Needs::kInit)) return failed;
  if (!is_sms(*from)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  if (from->own.split != 0) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  if (flags > 3 || least > from->sm.smCount) return CUDA_ERROR_INVALID_VALUE;
  const unsigned step = from->sm.smCoscheduledAlignment;
  const unsigned each = std::max(step, (least + step - 1) / step * step);
  const unsigned fit = groups_that_fit(*from, each);
  if (groups == nullptr) {
    *count = fit;
    return CUDA_SUCCESS;
  }
  *count = std::min(*count, fit);
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const unsigned split = ++core.splits;
  for (unsigned i = 0; i < *count; ++i) groups[i] = part(*from, split, i * each, each);
  if (rest != nullptr) *rest = part(*from, split, *count * each, from->sm.smCount - *count * each);
  return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc* description, CUdevResource* resources,
                                   unsigned count) {
  if (const CUresult failed = enter("cuDevResourceGenerateDesc", Needs::kInit)) return failed;
  if (count == 0) return CUDA_ERROR_INVALID_VALUE;
  auto made = std::make_unique<CUdevResourceDesc_st>();
  made->device = resources[0].own.device;
  std::set<unsigned> firsts;
  for (unsigned i = 0; i < count; ++i) {
    const CUdevResource& resource = resources[i];
    if (!is_sms(resource)) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    if (resource.own.device != made->device || resource.own.split != resources[0].own.split ||
        !firsts.insert(resource.own.first_sm).second)
      return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    made->sms += resource.sm.smCount;
  }
  Core& core = Core::get();
  const Lock lock(core.mutex);
  *description = made.get();
  core.descriptions.insert(std::move(made));
  return CUDA_SUCCESS;
}

// Retains the primary context, whose memory and modules are the green one's, too.
CUresult cuGreenCtxCreate(CUgreenCtx* green, CUdevResourceDesc description, CUdevice device,
                          unsigned flags) {
  if (const CUresult failed = enter("cuGreenCtxCreate", Needs::kInit)) return failed;
  if (flags != CU_GREEN_CTX_DEFAULT_STREAM) return CUDA_ERROR_INVALID_VALUE;
  if (device != description->device) return CUDA_ERROR_INVALID_DEVICE;
  CUcontext context = nullptr;
  if (const CUresult failed = cuDevicePrimaryCtxRetain(&context, device)) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  *green = new CUgreenCtx_st{context, description->sms};
  core.green_contexts.insert(*green);
  core.count("live.green_contexts");
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx green) {
  if (const CUresult failed = enter("cuGreenCtxDestroy", Needs::kInit)) return failed;
  Core& core = Core::get();
  int device = 0;
  {
    Lock lock(core.mutex);
    if (core.green_contexts.erase(green) == 0) return CUDA_ERROR_INVALID_CONTEXT;
    const auto of_it = [&](CUstream stream) { return stream->green == green; };
    if (std::ranges::any_of(core.streams, of_it))
      return core.violation("cuGreenCtxDestroy: streams of it are still there");
    const auto captured_on_it = [&](const auto* graph) { return graph->greens.contains(green); };
    if (std::ranges::any_of(core.graphs, captured_on_it) ||
        std::ranges::any_of(core.executables, captured_on_it))
      return core.violation("cuGreenCtxDestroy: graphs of its streams are still there");
    core.changed.wait(lock, [&] { return std::ranges::none_of(core.retired, of_it); });
    device = green->context->device;
    core.count("live.green_contexts", -1);
    delete green;
  }
  return cuDevicePrimaryCtxRelease_v2(device);
}

CUresult cuGreenCtxGetDevResource(CUgreenCtx green, CUdevResource* resource,
                                  CUdevResourceType type) {
  if (const CUresult failed = enter("cuGreenCtxGetDevResource", Needs::kInit)) return failed;
  Core& core = Core::get();
  {
    const Lock lock(core.mutex);
    if (!core.green_contexts.contains(green)) return CUDA_ERROR_INVALID_CONTEXT;
  }
  if (const CUresult failed = cuDeviceGetDevResource(green->context->device, resource, type))
    return failed;
  resource->sm.smCount = green->sms;
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxStreamCreate(CUstream* stream, CUgreenCtx green, unsigned flags, int priority) {
  if (const CUresult failed = enter("cuGreenCtxStreamCreate", Needs::kInit)) return failed;
  if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (!core.green_contexts.contains(green)) return CUDA_ERROR_INVALID_CONTEXT;
  *stream = make_stream(green->context, green, flags, std::clamp(priority, -5, 0));
  return CUDA_SUCCESS;
}
