// A CUDA device as the pump drives it: copies by DMA between registered slots and device buffers,
// engines on streams, ends seen by asking events. On a part of the device it may move to another
// while it serves: lanes are made there, warmed up, and each goes on there from its next batch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/lane.hpp"
#include "pump/device_table.hpp"

namespace gslice::cuda {

// Below about this a copy costs what starting it costs. To be measured anew on each new kind of
// GPU.
inline constexpr std::size_t kStagingMaxBytes = 16 << 10;

class CudaDevice final : public DeviceTable {
 public:
  // kFailedPrecondition: no driver, no such device; kUnavailable: MPS refuses;
  // kResourceExhausted: no memory. Batches of up to `staging_max_bytes` are copied in one piece.
  // Lanes run on the SMs of `green`; null: on all.
  static Result<std::shared_ptr<CudaDevice>> open(int ordinal, std::uint32_t lanes,
                                                  std::size_t staging_max_bytes,
                                                  std::shared_ptr<GreenContext> green = nullptr);

  // Waits for what the streams still run and gives back what nobody else holds. Idempotent.
  // kFailedPrecondition: an instance still uses it.
  Status close();
  bool closed() const { return context_ == nullptr; }

  const DeviceInfo& info() const { return info_; }
  std::uint32_t sms() const;  // that its lanes may use
  std::uint32_t lane_count() const { return lane_count_; }
  // Engines know lanes by their place: those of the other side come after the first.
  std::uint32_t place_count() const { return lane_count_ * kSides; }
  std::uint32_t first_place() const { return serving_ * lane_count_; }  // of those that serve
  std::uint32_t other_place() const { return other() * lane_count_; }   // of the first spare
  bool has_lane(std::uint32_t place) const;
  const std::shared_ptr<CudaLane>& lane(std::uint32_t place) {
    return sides_[place / lane_count_].lanes[place % lane_count_];
  }

  // Makes spare lanes on other SMs, for engines to prepare. kFailedPrecondition: it runs on no part
  // of the device, or has spare lanes already.
  Status prepare_move(std::shared_ptr<GreenContext> green);
  // Takes the lanes that do not serve away, if there are any: spare ones, and after a move those
  // that were left. Graphs that were captured on their streams must have gone.
  void drop_spare();
  const std::shared_ptr<Context>& context_of() const { return context_; }  // null once closed
  const Counters& counters() const { return *counters_; }

  bool binds_slots() const override { return false; }
  bool computes_in_turn() const override { return false; }
  Status attach(std::span<std::byte> slots) override;
  void detach() override { slots_.reset(); }
  Status open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) override;
  void close_lane(std::uint32_t lane) override;
  std::shared_ptr<std::byte> buffer(std::uint32_t lane, std::size_t bytes, bool* grown) override;
  void copy_in(std::uint32_t lane, std::span<const Copy> gather) override;
  void compute(std::uint32_t lane, Batch& batch) override;
  void copy_out(std::uint32_t lane, std::span<const Copy> scatter) override;
  void record(std::uint32_t lane) override { serving_in_[lane]->record(); }
  bool poll(std::uint32_t lane, LaneReport& report) override {
    return serving_in_[lane]->poll(report);
  }
  Status begin_move() override;
  void move_lane(std::uint32_t lane) override;
  void end_move() override;
  std::int64_t next_poll_ns(std::int64_t now_ns) const override;
  Status lost() const override;
  std::vector<int> compute_tids() const override;

 private:
  static constexpr std::uint32_t kSides = 2;
  struct Side {
    std::shared_ptr<GreenContext> green;
    std::vector<std::shared_ptr<CudaLane>> lanes;
  };
  struct Opening {
    Engine* engine = nullptr;
    std::function<void()> done;
  };

  CudaDevice() = default;
  Status make_lanes(Side& side, std::uint32_t first_place);
  std::uint32_t other() const { return 1 - serving_; }

  DeviceInfo info_;
  std::uint32_t lane_count_ = 0;
  std::shared_ptr<Counters> counters_;
  std::shared_ptr<Context> context_;
  std::size_t staging_max_bytes_ = 0;
  std::array<Side, kSides> sides_;  // changed while no lane moves
  std::uint32_t serving_ = 0;
  std::vector<CudaLane*> serving_in_;  // by lane: the pump's, once it runs
  std::vector<Opening> openings_;      // by lane
  std::unique_ptr<RegisteredMemory> slots_;
};

}  // namespace gslice::cuda
