// The CPU as a device: a lane is a thread that acts as the stream, copies are memcpy.
//
// Lanes overlap their copies, while compute is serialised: two batches at once would only fight
// for the same cores. The order of computing is the order of record(). A lane of an engine that
// does not block has no thread: record() runs the batch in place.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "pump/device_table.hpp"

namespace gslice {

// Whose turn it is to compute: numbers are handed out by record() and called up in order. It is
// waited for before an engine takes any lock of its own (such as the GIL), and nobody who holds
// one waits for it.
class ComputeTurn {
 public:
  std::uint64_t number() { return last_++; }  // by the pump's thread only
  void wait(std::uint64_t number);
  void pass();

 private:
  std::uint64_t last_ = 0;
  std::mutex mutex_;
  std::condition_variable called_;
  std::uint64_t now_ = 0;
};

class CpuDevice final : public DeviceTable {
 public:
  // `inline_lanes`: blocking engines run in record() too; the plain twin of the threaded lanes.
  explicit CpuDevice(std::uint32_t lanes, bool inline_lanes = false);
  ~CpuDevice() override;

  bool binds_slots() const override { return true; }
  bool computes_in_turn() const override { return true; }
  Status open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) override;
  void close_lane(std::uint32_t lane) override;
  std::shared_ptr<std::byte> buffer(std::uint32_t lane, std::size_t bytes, bool* grown) override;
  void copy_in(std::uint32_t lane, std::span<const Copy> gather) override;
  void compute(std::uint32_t lane, Batch& batch) override;
  void copy_out(std::uint32_t lane, std::span<const Copy> scatter) override;
  void record(std::uint32_t lane) override;
  bool poll(std::uint32_t lane, LaneReport& report) override;
  bool runs_by_itself() const override { return !compute_tids().empty(); }
  std::vector<int> compute_tids() const override;

 private:
  class Lane;

  const bool inline_lanes_;
  ComputeTurn turn_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace gslice
