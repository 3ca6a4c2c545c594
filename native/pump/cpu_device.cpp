#include "pump/cpu_device.hpp"

#include <atomic>
#include <cstring>
#include <new>

#include "base/clock.hpp"
#include "pump/lane_thread.hpp"

namespace gslice {

void ComputeTurn::wait(std::uint64_t number) {
  std::unique_lock lock(mutex_);
  called_.wait(lock, [&] { return now_ == number; });
}

void ComputeTurn::pass() {
  {
    const std::lock_guard lock(mutex_);
    ++now_;
  }
  called_.notify_all();
}

// One sequence of work at a time: record() -> run() -> poll().
class CpuDevice::Lane {
 public:
  Lane(std::uint32_t index, ComputeTurn& turn) : index_(index), turn_(turn) {}

  Status open(Engine& engine, std::function<void()> done, bool threaded) {
    engine_ = &engine;
    done_ = std::move(done);
    return threaded ? thread_.start(index_, engine, [this] { run(); }) : Status::Ok();
  }

  void close() { thread_.stop(); }

  std::shared_ptr<std::byte> buffer(std::size_t bytes, bool* grown) {
    *grown = bytes > buffer_bytes_;
    if (*grown) {
      buffer_.reset();
      buffer_bytes_ = 0;
      try {
        buffer_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kLaneAlign})),
                      Free{});
        buffer_bytes_ = bytes;
      } catch (const std::bad_alloc&) {  // the caller hears of it by the null
      }
    }
    return buffer_;
  }

  void record() {
    number_ = turn_.number();
    if (thread_.running())
      thread_.run();
    else
      run();
  }

  bool poll(LaneReport& report) {
    if (!ended_.load(std::memory_order_acquire)) return false;
    report = std::move(report_);
    report_ = {};
    gather = scatter = {};
    batch = nullptr;
    ended_.store(false, std::memory_order_relaxed);
    return true;
  }

  int tid() const { return thread_.tid(); }

  // The sequence being enqueued.
  std::span<const Copy> gather, scatter;
  Batch* batch = nullptr;

 private:
  void run() {
    const std::int64_t began_ns = now_ns();
    for (const Copy& copy : gather) {
      if (copy.slot != nullptr)
        std::memcpy(buffer_.get() + copy.offset, copy.slot, copy.bytes);
      else
        std::memset(buffer_.get() + copy.offset, 0, copy.bytes);
    }
    report_.copy_in_ns = now_ns() - began_ns;
    turn_.wait(number_);
    report_.compute_ns = now_ns();
    report_.status = run_checked(*engine_, *batch);
    report_.computed_ns = now_ns();
    // The next batch computes while this one copies out. With nothing to copy, its start would only
    // take the core from under the answer.
    const bool copies_out = report_.status.ok() && !scatter.empty();
    if (copies_out) {
      turn_.pass();
      for (const Copy& copy : scatter)
        std::memcpy(copy.slot, buffer_.get() + copy.offset, copy.bytes);
      report_.copy_out_ns = now_ns() - report_.computed_ns;
    }
    ended_.store(true, std::memory_order_release);
    if (thread_.running()) done_();
    if (!copies_out) turn_.pass();
  }

  struct Free {
    void operator()(std::byte* bytes) const {
      ::operator delete(bytes, std::align_val_t{kLaneAlign});
    }
  };

  const std::uint32_t index_;
  ComputeTurn& turn_;
  Engine* engine_ = nullptr;
  std::function<void()> done_;
  std::shared_ptr<std::byte> buffer_;
  std::size_t buffer_bytes_ = 0;
  std::uint64_t number_ = 0;
  LaneReport report_;

  std::atomic<bool> ended_{false};
  LaneThread thread_;  // last: it ends before what it works on
};

CpuDevice::CpuDevice(std::uint32_t lanes, bool inline_lanes) : inline_lanes_(inline_lanes) {
  for (std::uint32_t i = 0; i < lanes; ++i) lanes_.push_back(std::make_unique<Lane>(i, turn_));
}

CpuDevice::~CpuDevice() = default;

Status CpuDevice::open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) {
  return lanes_[lane]->open(engine, std::move(done), engine.blocking() && !inline_lanes_);
}

void CpuDevice::close_lane(std::uint32_t lane) { lanes_[lane]->close(); }

std::shared_ptr<std::byte> CpuDevice::buffer(std::uint32_t lane, std::size_t bytes, bool* grown) {
  return lanes_[lane]->buffer(bytes, grown);
}

void CpuDevice::copy_in(std::uint32_t lane, std::span<const Copy> gather) {
  lanes_[lane]->gather = gather;
}

void CpuDevice::compute(std::uint32_t lane, Batch& batch) { lanes_[lane]->batch = &batch; }

void CpuDevice::copy_out(std::uint32_t lane, std::span<const Copy> scatter) {
  lanes_[lane]->scatter = scatter;
}

void CpuDevice::record(std::uint32_t lane) { lanes_[lane]->record(); }

bool CpuDevice::poll(std::uint32_t lane, LaneReport& report) { return lanes_[lane]->poll(report); }

std::vector<int> CpuDevice::compute_tids() const {
  std::vector<int> tids;
  for (const auto& lane : lanes_)
    if (lane->tid() != 0) tids.push_back(lane->tid());
  return tids;
}

}  // namespace gslice
