// What the pump drives: lanes of one device. Each lane is a stream with a buffer of its own.
//
// Everything between open_lane and poll is asynchronous by contract: the calls enqueue, the lane
// runs them in order, and poll() alone tells of the end. What was handed over by reference (copy
// lists, the batch) stays untouched by the caller until then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.hpp"
#include "base/status.hpp"
#include "pump/engine.hpp"

namespace gslice {

// A piece of a tensor, in a slot and in the lane's buffer. Without slot bytes: zeros of `bytes`,
// to pad a batch (copy in only).
struct Copy {
  std::byte* slot = nullptr;
  std::size_t offset = 0;  // in the lane's buffer
  std::size_t bytes = 0;
};

// How one batch went. Stamps are CLOCK_MONOTONIC.
struct LaneReport {
  Status status;
  std::int64_t copy_in_ns = 0;  // durations
  std::int64_t copy_out_ns = 0;
  std::int64_t compute_ns = 0;   // stamps: compute began
  std::int64_t computed_ns = 0;  // and ended
};

class DeviceTable {
 public:
  virtual ~DeviceTable() = default;

  // True: a tensor may stay where it is in the slot, and the batch be bound to it without a copy.
  virtual bool binds_slots() const = 0;
  // True: lanes compute one at a time, so that a batch beside a running one begins only after it.
  virtual bool computes_in_turn() const = 0;

  // Makes the memory of slots reachable, for as long as lanes are open.
  virtual Status attach(std::span<std::byte>) { return Status::Ok(); }
  virtual void detach() {}

  // `done` is called, from any thread, whenever poll() may have become true.
  virtual Status open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) = 0;
  // Waits for what the lane still runs.
  virtual void close_lane(std::uint32_t lane) = 0;

  // The lane's buffer, of at least `bytes`; only while the lane is idle. Null: no memory.
  // `grown` tells that it was allocated anew, which steady state never does. The old one lives on
  // for as long as anybody holds it: an engine's views of a batch may outlive the batch.
  virtual std::shared_ptr<std::byte> buffer(std::uint32_t lane, std::size_t bytes, bool* grown) = 0;

  virtual void copy_in(std::uint32_t lane, std::span<const Copy> gather) = 0;
  virtual void compute(std::uint32_t lane, Batch& batch) = 0;
  virtual void copy_out(std::uint32_t lane, std::span<const Copy> scatter) = 0;
  // Ends one batch's sequence; from here on poll() may become true.
  virtual void record(std::uint32_t lane) = 0;
  // True, once for each record(): the batch is done, and `report` says how it went. When compute
  // fails, nothing is copied out.
  virtual bool poll(std::uint32_t lane, LaneReport& report) = 0;

  // True: threads of its own copy and compute, and none has to be asked whether it is done. What is
  // left for the pump is microseconds a batch. From open_lane on.
  virtual bool runs_by_itself() const { return false; }
  // When poll() is worth a call although `done` was not called: not later than `now_ns`: at once.
  virtual std::int64_t next_poll_ns([[maybe_unused]] std::int64_t now_ns) const { return kNever; }
  // Why the device is lost to this process for good; ok while it is not. The requests of a batch
  // that ends then belong to whoever recovers this instance.
  virtual Status lost() const { return Status::Ok(); }

  // A move of all lanes to where the device has prepared others, on another part of it perhaps.
  // Each goes there between two of its batches; what it leaves is taken down at the end.
  virtual Status begin_move() {
    return Status::Error(Code::kFailedPrecondition, "this device has nowhere to move to");
  }
  virtual void move_lane(std::uint32_t) {}
  virtual void end_move() {}

  // Kernel ids of the threads that compute, where the device has any.
  virtual std::vector<int> compute_tids() const { return {}; }
};

}  // namespace gslice
