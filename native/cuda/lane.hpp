// A lane of a CUDA device: a stream of its own with a buffer, timed by events, never waited for.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.hpp"
#include "cuda/context.hpp"
#include "cuda/copies.hpp"
#include "cuda/green.hpp"
#include "cuda/memory.hpp"
#include "cuda/poll_schedule.hpp"
#include "pump/device_table.hpp"
#include "pump/lane_thread.hpp"

namespace gslice::cuda {

// One sequence of work at a time: kIdle -> record() -> kEnqueuing -> kEnqueued -> poll(). Only the
// lane's thread, if it has one, touches the sequence while it is kEnqueuing.
class CudaLane final : public DeviceStream {
 public:
  // `place` as engines count; on the SMs of `green`, or on all.
  static Result<std::shared_ptr<CudaLane>> create(std::shared_ptr<Context> context,
                                                  std::shared_ptr<GreenContext> green,
                                                  std::uint32_t place,
                                                  std::size_t staging_max_bytes);
  ~CudaLane() override;  // waits for what the stream still runs

  Status open(Engine& engine, std::function<void()> done);
  void close();
  bool open() const { return engine_ != nullptr; }
  int tid() const { return thread_.tid(); }

  // Null: no memory.
  std::shared_ptr<std::byte> buffer(std::size_t bytes, bool* grown);
  std::span<const Copy> gather, scatter;  // the sequence being put together
  Batch* batch = nullptr;
  void record();
  bool poll(LaneReport& report);
  std::int64_t next_poll_ns(std::int64_t now_ns) const;

  // Outside the hot path, while the lane is not open: a batch of the caller's. begin() waits for
  // the one before, finish() for all that was asked of this one; both may be called without reason.
  Status begin(Batch& of);
  Status finish(Batch& of);
  void end(Batch& of);
  // Streams beside the lane's own, on the same SMs, for a library that forks and joins there: its
  // own would run on all of the device. None where the lane does. They go with the lane.
  Result<std::span<const CUstream>> side_streams(std::size_t count);

  std::uintptr_t handle() const override { return reinterpret_cast<std::uintptr_t>(stream_); }
  std::uint32_t place() const override { return place_; }
  Status copy_from_host(std::byte* to, std::span<const std::byte> data) override;
  Status copy_from_device(std::byte* to, std::span<const std::byte> data) override;
  Status keep(std::uint32_t output, const Shape& shape, std::span<const std::byte> data) override;
  Status launch(void* graph) override;

 private:
  enum class State { kIdle, kEnqueuing, kEnqueued };
  enum Mark { kBegun, kCopiedIn, kComputed, kEnded, kMarks };
  struct Kept {
    std::uint32_t output;
    Shape shape;
    std::span<const std::byte> data;  // pinned
  };

  CudaLane(std::shared_ptr<Context> context, std::shared_ptr<GreenContext> green,
           std::uint32_t place, CUstream stream, std::size_t staging_max_bytes);
  Status create_events();
  void forget();
  Status enqueue_copy_in();
  void enqueue_rest();
  Status enqueue_compute();
  Status mark(Mark mark);
  Status ask_stream(bool* ended);
  Status store_kept();
  Status measure(std::int64_t ended_ns, LaneReport& report) const;
  Status between(Mark from, Mark to, std::int64_t* duration_ns) const;

  const std::shared_ptr<Context> context_;
  const std::shared_ptr<GreenContext> green_;  // of the stream; null: of no part of the device
  const std::uint32_t place_;
  const CUstream stream_;
  std::vector<CUstream> side_streams_;
  std::array<CUevent, kMarks> events_{};
  LaneCopies copies_;
  PinnedArena arena_;  // of the running batch: outputs that come or go by value
  std::shared_ptr<DeviceBuffer> buffer_;

  Engine* engine_ = nullptr;
  std::function<void()> done_;
  LaneThread thread_;
  Status status_;  // of the running batch
  bool end_is_marked_ = false;
  std::vector<Kept> kept_;
  PollSchedule schedule_;
  std::atomic<State> state_{State::kIdle};
};

}  // namespace gslice::cuda
