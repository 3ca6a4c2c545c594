// Stream capture and graphs: what a captured stream is given is kept, and replayed in that order.
#include <algorithm>

#include "core.hpp"

namespace fake {
namespace {

template <typename Forbids>
CUresult refused_by(const char* function, const Forbids& forbids) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : Core::get().captures) {
    if (!forbids(capture)) continue;
    capture->invalidated = true;
    Core::get().violation(std::string(function) + ": while a stream is being captured");
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

}  // namespace

CUresult refused_by_capture(const char* function) {
  return refused_by(function, [](const std::shared_ptr<Capture>& capture) {
    return capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
           (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
            capture->thread == std::this_thread::get_id());
  });
}

CUresult refused_by_any_capture(const char* function, CUcontext context) {
  return refused_by(function, [&](const std::shared_ptr<Capture>& capture) {
    return capture->origin->context == context;
  });
}

}  // namespace fake

using namespace fake;

CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  if (const CUresult failed = enter("cuStreamBeginCapture_v2")) return failed;
  if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream == stream->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_shared<Capture>();
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  stream->capture->origin = stream;
  core.captures.push_back(stream->capture);
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  if (const CUresult failed = enter("cuStreamEndCapture")) return failed;
  *graph = nullptr;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const auto capture = stream->capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
      capture->thread != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  for (const CUstream other : core.streams)
    if (other->capture == capture) other->capture = nullptr;
  std::erase(core.captures, capture);
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = new CUgraph_st{capture->operations, capture->greens};
  core.graphs.insert(*graph);
  core.count("live.graphs");
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  if (const CUresult failed = enter("cuStreamIsCapturing")) return failed;
  const Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *status = !stream->capture               ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                           : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph,
                                     unsigned long long flags) {
  if (const CUresult failed = enter("cuGraphInstantiateWithFlags")) return failed;
  if (flags > 15) return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (!core.graphs.contains(graph)) return CUDA_ERROR_INVALID_VALUE;
  *executable = new CUgraphExec_st{
      std::make_shared<const std::vector<Operation>>(graph->operations), graph->greens};
  core.executables.insert(*executable);
  core.count("live.graph_executables");
  return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec executable, CUstream handle) {
  if (const CUresult failed = enter("cuGraphUpload")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (!core.executables.contains(executable)) return CUDA_ERROR_INVALID_VALUE;
  return find_stream(handle) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
  if (const CUresult failed = enter("cuGraphLaunch")) return failed;
  Core& core = Core::get();
  Lock lock(core.mutex);
  if (!core.executables.contains(executable)) return CUDA_ERROR_INVALID_VALUE;
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  core.count("graph_launches");
  Operation launch{.kind = "graph"};
  for (const Operation& operation : *executable->operations)
    launch.hosts.insert(launch.hosts.end(), operation.hosts.begin(), operation.hosts.end());
  launch.run = [operations = executable->operations] {
    for (const Operation& operation : *operations)
      if (operation.run)
        if (const CUresult failed = Core::get().plan.meet_operation(operation.kind, operation.run))
          return failed;
    return CUDA_SUCCESS;
  };
  return enqueue(lock, stream, std::move(launch));
}

CUresult cuGraphDestroy(CUgraph graph) {
  if (const CUresult failed = enter("cuGraphDestroy")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (core.graphs.erase(graph) == 0) return CUDA_ERROR_INVALID_VALUE;
  core.count("live.graphs", -1);
  delete graph;
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
  if (const CUresult failed = enter("cuGraphExecDestroy")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (core.executables.erase(executable) == 0) return CUDA_ERROR_INVALID_VALUE;
  core.count("live.graph_executables", -1);
  delete executable;
  return CUDA_SUCCESS;
}
