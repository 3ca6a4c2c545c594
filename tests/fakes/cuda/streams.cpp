// Streams and events. Each stream is a thread that runs its operations in order; an event's record
// is an operation that signals a marker.
#include <algorithm>

#include "core.hpp"

namespace fake {
namespace {

void serve(CUstream stream) {
  Core& core = Core::get();
  Lock lock(core.mutex);
  const auto runnable = [stream] {
    if (stream->queue.empty()) return stream->stopping;
    const auto& after = stream->queue.front().after;
    return after == nullptr || after->done || Core::get().lost() != CUDA_SUCCESS;
  };
  while (true) {
    core.changed.wait(lock, runnable);
    if (stream->queue.empty()) {
      core.retired.erase(stream);
      core.changed.notify_all();
      delete stream;
      return;
    }
    const Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->running = true;
    if (operation.run && core.lost() == CUDA_SUCCESS) {
      lock.unlock();
      const CUresult result = core.plan.meet_operation(operation.kind, operation.run);
      lock.lock();
      if (result != CUDA_SUCCESS) core.lose(result, stream->context->device);
    }
    stream->running = false;
    if (operation.signals) *operation.signals = {true, now_ns()};
    for (const auto& host : operation.hosts) --host->in_flight;
    core.count("live.operations", -1);
    core.changed.notify_all();
  }
}

void push(CUstream stream, Operation operation) {
  Core& core = Core::get();
  for (const auto& host : operation.hosts) ++host->in_flight;
  stream->queue.push_back(std::move(operation));
  core.count("live.operations");
  core.changed.notify_all();
}

// `second` goes on only when `first` has done what it holds now.
void order(CUstream first, CUstream second) {
  if (first->idle()) return;
  const auto marker = std::make_shared<Marker>();
  push(first, {.kind = "mark", .signals = marker});
  push(second, {.kind = "mark", .after = marker});
}

// Stream 0 and the streams that are not CU_STREAM_NON_BLOCKING wait for each other.
void order_with_legacy(CUstream stream) {
  Core& core = Core::get();
  const CUstream legacy = stream->context->legacy;
  if (stream == legacy) {
    core.count("legacy_stream");
    for (const CUstream other : core.streams)
      if (other != legacy && other->context == stream->context &&
          (other->flags & CU_STREAM_NON_BLOCKING) == 0)
        order(other, legacy);
  } else if (legacy != nullptr && (stream->flags & CU_STREAM_NON_BLOCKING) == 0) {
    order(legacy, stream);
  }
}

}  // namespace

CUstream make_stream(CUcontext context, CUgreenCtx green, unsigned flags, int priority) {
  Core& core = Core::get();
  const CUstream stream = new CUstream_st{};
  stream->context = context;
  stream->green = green;
  stream->flags = flags;
  stream->priority = priority;
  // Detached, as a stream that is destroyed with work left ends when the work does.
  std::thread(serve, stream).detach();
  core.streams.insert(stream);
  core.count("live.streams");
  return stream;
}

int sms_of(CUstream stream) {
  return stream->green != nullptr ? static_cast<int>(stream->green->sms)
                                  : Core::get().effective_sms(stream->context->device);
}

CUstream find_stream(CUstream handle) {
  Core& core = Core::get();
  const CUcontext context = current_context();
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  if (value <= 2) {
    CUstream& special = value == 2 ? context->per_thread : context->legacy;
    if (special == nullptr) special = make_stream(context, nullptr, 0, 0);
    return special;
  }
  return core.streams.contains(handle) && handle->context == context ? handle : nullptr;
}

CUresult enqueue(Lock&, CUstream stream, Operation operation) {
  if (stream->capture) {
    if (stream->capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->capture->operations.push_back(std::move(operation));
    if (stream->green != nullptr) stream->capture->greens.insert(stream->green);
    return CUDA_SUCCESS;
  }
  order_with_legacy(stream);
  push(stream, std::move(operation));
  return CUDA_SUCCESS;
}

void wait_idle(Lock& lock, CUstream stream) {
  Core::get().changed.wait(lock, [stream] { return stream->idle(); });
}

void wait_all_idle(Lock& lock, CUcontext context) {
  Core& core = Core::get();
  core.changed.wait(lock, [&] {
    const auto idle = [&](CUstream stream) { return stream->context != context || stream->idle(); };
    return std::ranges::all_of(core.streams, idle) && std::ranges::all_of(core.retired, idle);
  });
}

void destroy_streams(Lock& lock, CUcontext context) {
  Core& core = Core::get();
  for (const CUstream special : {context->legacy, context->per_thread})
    if (special != nullptr && core.streams.erase(special) == 1) {
      core.retired.insert(special);
      core.count("live.streams", -1);
    }
  context->legacy = context->per_thread = nullptr;
  for (auto at = core.streams.begin(); at != core.streams.end();) {
    if ((*at)->context != context) {
      ++at;
      continue;
    }
    core.count("leaked.streams");
    core.count("live.streams", -1);
    core.retired.insert(*at);
    at = core.streams.erase(at);
  }
  for (const CUstream stream : core.retired) stream->stopping = true;
  core.changed.notify_all();
  core.changed.wait(lock, [&] {
    return std::ranges::none_of(core.retired,
                                [&](CUstream stream) { return stream->context == context; });
  });
}

}  // namespace fake

using namespace fake;

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return cuStreamCreateWithPriority(stream, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
  if (const CUresult failed = enter("cuStreamCreateWithPriority")) return failed;
  if (flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  const Lock lock(Core::get().mutex);
  *stream = make_stream(current_context(), nullptr, flags, std::clamp(priority, -5, 0));
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream handle) {
  if (const CUresult failed = enter("cuStreamDestroy_v2")) return failed;
  Core& core = Core::get();
  const Lock lock(core.mutex);
  if (!core.streams.contains(handle)) return CUDA_ERROR_INVALID_HANDLE;
  core.streams.erase(handle);
  core.retired.insert(handle);
  core.count("live.streams", -1);
  handle->stopping = true;
  core.changed.notify_all();
  return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream handle) {
  if (const CUresult failed = enter("cuStreamQuery")) return failed;
  const Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refused_by_capture("cuStreamQuery")) return refused;
  return stream->idle() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamSynchronize(CUstream handle) {
  if (const CUresult failed = enter("cuStreamSynchronize")) return failed;
  Core& core = Core::get();
  core.count("synchronise");
  Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refused_by_capture("cuStreamSynchronize")) return refused;
  wait_idle(lock, stream);
  return core.lost();
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
  if (const CUresult failed = enter("cuStreamWaitEvent")) return failed;
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr || !core.events.contains(event)) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured) {
    // The stream joins the capture that the event was recorded in.
    if (stream->capture && stream->capture != event->captured)
      return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    stream->capture = event->captured;
    return CUDA_SUCCESS;
  }
  if (event->recorded == nullptr) return CUDA_SUCCESS;
  return enqueue(lock, stream, {.kind = "mark", .after = event->recorded});
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
  if (const CUresult failed = enter("cuStreamGetCtx")) return failed;
  const Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *context = stream->context;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext* context, CUgreenCtx* green) {
  if (const CUresult failed = cuStreamGetCtx(handle, context)) return failed;
  const Lock lock(Core::get().mutex);
  *green = find_stream(handle)->green;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  if (const CUresult failed = enter("cuStreamGetPriority")) return failed;
  const Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned* flags) {
  if (const CUresult failed = enter("cuStreamGetFlags")) return failed;
  const Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  *flags = stream->flags;
  return CUDA_SUCCESS;
}
