// The pump of one loaded copy of a function: one thread that claims batches, drives lanes, and
// completes requests. It blocks in one place only, on its doorbell in the segment, which rings for
// new requests, for lanes that have finished, and for drain() and stop().
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "pump/assembly.hpp"
#include "pump/device_table.hpp"
#include "pump/engine.hpp"
#include "pump/fault.hpp"
#include "pump/frontend_bells.hpp"
#include "pump/recorder.hpp"
#include "segment/segment.hpp"
#include "turns/turn.hpp"

namespace gslice {

struct PumpCounters {
  std::atomic<std::uint64_t> batches{0};
  std::atomic<std::uint64_t> zero_copy_batches{0};
  std::atomic<std::uint64_t> lane_buffer_allocations{0};
};

class Instance {
 public:
  // kInvalidArgument: an index out of range, or a signature that can not be batched as it says.
  static Result<std::unique_ptr<Instance>> create(std::shared_ptr<Segment> segment,
                                                  std::uint32_t index, Signature signature,
                                                  std::uint32_t lanes,
                                                  std::unique_ptr<Engine> engine,
                                                  std::shared_ptr<DeviceTable> device);
  ~Instance();  // stops
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  FrontendBells& frontends() { return frontends_; }
  const Signature& signature() const { return signature_; }
  const PumpCounters& counters() const { return counters_; }
  Recorder& recorder() { return recorder_; }

  // Before start(): batches need a turn while the board has turns on. kInvalidArgument: no such
  // entry.
  Status take_turns(std::shared_ptr<TurnBoard> board, std::uint32_t entry) {
    return turn_.join(std::move(board), entry);
  }
  // Opens the lanes and starts the pump.
  Status start();
  int pump_tid() const { return pump_tid_.load(); }
  int turn_tid() const { return turn_.listener_tid(); }  // of the thread that hears of turns; or 0
  // The device was lost: nothing more is claimed or answered, and what was claimed stays so for
  // whoever recovers this instance.
  const Fault& fault() const { return fault_; }
  std::vector<int> lane_tids() const { return device_->compute_tids(); }

  // Claims nothing new from now on. True: nothing was in flight within the time-out. False also
  // when the device is lost.
  bool drain(std::int64_t timeout_ns);
  // Has every lane go on where the device has prepared that, from its next batch; returns when all
  // do, and nothing of where they were is in use. kUnavailable: the device is lost.
  Status move();
  // Finishes what was claimed, and ends the threads. Idempotent.
  void stop();

  // The plain twin of the pump, for tests and debugging: claim, copy, compute, copy, complete in
  // the caller's thread, without any other. False: there was nothing to claim. Needs a device with
  // inline lanes, and never runs beside start().
  bool run_once();

 private:
  struct Lane {
    std::unique_ptr<Assembly> assembly;
    bool busy = false;
    bool moves = false;          // before its next batch
    std::int64_t waited_ns = 0;  // its batch, for its turn
  };

  Instance(std::shared_ptr<Segment> segment, std::uint16_t index, Signature signature,
           std::uint32_t lanes, std::unique_ptr<Engine> engine,
           std::shared_ptr<DeviceTable> device);

  Status open_lanes();
  void close_lanes(std::uint32_t count);
  void pump_main();
  void turn();
  void wait(std::uint32_t doorbell, std::int64_t until_ns);
  bool ended() const { return faulted_ || (stopping_.load() && in_flight_ == 0); }
  void stamp();
  bool complete_finished();
  std::int64_t launch_next();
  ClaimLimits claim_limits() const;
  std::int64_t await_turn();
  void pass_turn_on();
  void launch(Lane& lane, std::uint32_t index);
  void record_inputs(const Assembly& assembly);
  void complete(Lane& lane, std::uint32_t index, const LaneReport& report);
  void restart_waiting();
  std::size_t batches_at_once() const;
  void note_ready(std::int64_t now);
  void answer(const Member& member, const Status& status, const LaneReport& report);
  void move_idle_lanes();
  void report_drained();
  void report_fault();
  InstanceEntry& entry() { return segment_->header().instances[index_]; }

  const std::shared_ptr<Segment> segment_;
  const std::uint16_t index_;
  const Signature signature_;
  const std::unique_ptr<Engine> engine_;
  const std::shared_ptr<DeviceTable> device_;
  FrontendBells frontends_;
  PumpCounters counters_;
  Recorder recorder_;

  // The pump's own.
  std::vector<Lane> lanes_;
  std::uint32_t in_flight_ = 0;
  bool lanes_move_ = false;
  Turn turn_;
  Claim claim_;
  std::vector<std::uint16_t> wake_;
  bool faulted_ = false;

  Fault fault_;
  std::thread pump_;
  std::atomic<int> pump_tid_{0};
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> moving_{false};
  std::mutex drained_mutex_;
  std::condition_variable drained_changed_;  // likewise of a move
  bool drained_ = false;
  bool moved_ = false;
  bool gave_up_ = false;
  bool open_ = false;
};

}  // namespace gslice
