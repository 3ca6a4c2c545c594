#include "core.hpp"

using namespace fake;

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  if (const CUresult failed = enter("cuEventCreate")) return failed;
  if (flags > 7 || ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING)))
    return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  *event = new CUevent_st{};
  (*event)->flags = flags;
  core.events.insert(*event);
  core.count("live.events");
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
  if (const CUresult failed = enter("cuEventDestroy_v2")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (core.events.erase(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  core.count("live.events", -1);
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
  if (const CUresult failed = enter("cuEventRecord")) return failed;
  Core& core = Core::get();
  Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr || !core.events.contains(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) {
    // In a graph it only orders streams, and operations are kept in the order of their issue.
    event->captured = stream->capture;
    event->recorded = nullptr;
    return CUDA_SUCCESS;
  }
  event->captured = nullptr;
  event->recorded = std::make_shared<Marker>();
  return enqueue(lock, stream, {.kind = "mark", .signals = event->recorded});
}

CUresult cuEventQuery(CUevent event) {
  if (const CUresult failed = enter("cuEventQuery")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (!core.events.contains(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  if (const CUresult refused = refused_by_capture("cuEventQuery")) return refused;
  const bool done = event->recorded == nullptr || event->recorded->done;
  // Lost in the moment between: a marker that was skipped must not pass for one that was reached.
  if (const CUresult lost = core.lost()) return lost;
  return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event) {
  if (const CUresult failed = enter("cuEventSynchronize")) return failed;
  Core& core = Core::get();
  core.count("synchronise");
  Lock lock(core.mutex);
  if (!core.events.contains(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  if (const CUresult refused = refused_by_capture("cuEventSynchronize")) return refused;
  if (const auto recorded = event->recorded)
    core.changed.wait(lock, [&] { return recorded->done; });
  return core.lost();
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  if (const CUresult failed = enter("cuEventElapsedTime")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  for (const CUevent event : {start, end}) {
    if (!core.events.contains(event)) return CUDA_ERROR_INVALID_HANDLE;
    if ((event->flags & CU_EVENT_DISABLE_TIMING) != 0 || event->recorded == nullptr)
      return CUDA_ERROR_INVALID_HANDLE;
  }
  if (!start->recorded->done || !end->recorded->done) return CUDA_ERROR_NOT_READY;
  const auto elapsed_ns = end->recorded->done_ns - start->recorded->done_ns;
  *milliseconds = static_cast<float>(static_cast<double>(elapsed_ns) * 1e-6);
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
