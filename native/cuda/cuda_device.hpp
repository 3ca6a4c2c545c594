// A CUDA device as the pump drives it: copies by DMA between registered slots and device buffers,
// engines on streams, ends seen by asking events.
#pragma once

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
  static Result<std::shared_ptr<CudaDevice>> open(int ordinal, std::uint32_t lanes,
                                                  std::size_t staging_max_bytes);

  // Waits for what the streams still run and gives back what nobody else holds. Idempotent.
  // kFailedPrecondition: an instance still uses it.
  Status close();
  bool closed() const { return context_ == nullptr; }

  const DeviceInfo& info() const { return info_; }
  std::uint32_t lane_count() const { return lane_count_; }
  const std::shared_ptr<CudaLane>& lane(std::uint32_t index) { return lanes_[index]; }
  const std::shared_ptr<Context>& context_of() const { return context_; }  // null once closed
  const Counters& counters() const { return *counters_; }

  bool binds_slots() const override { return false; }
  bool computes_in_turn() const override { return false; }
  Status attach(std::span<std::byte> slots) override;
  void detach() override { slots_.reset(); }
  Status open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) override;
  void close_lane(std::uint32_t lane) override { lanes_[lane]->close(); }
  std::shared_ptr<std::byte> buffer(std::uint32_t lane, std::size_t bytes, bool* grown) override;
  void copy_in(std::uint32_t lane, std::span<const Copy> gather) override;
  void compute(std::uint32_t lane, Batch& batch) override;
  void copy_out(std::uint32_t lane, std::span<const Copy> scatter) override;
  void record(std::uint32_t lane) override { lanes_[lane]->record(); }
  bool poll(std::uint32_t lane, LaneReport& report) override { return lanes_[lane]->poll(report); }
  std::int64_t next_poll_ns(std::int64_t now_ns) const override;
  Status lost() const override;
  std::vector<int> compute_tids() const override;

 private:
  CudaDevice() = default;

  DeviceInfo info_;
  std::uint32_t lane_count_ = 0;
  std::shared_ptr<Counters> counters_;
  std::shared_ptr<Context> context_;
  std::vector<std::shared_ptr<CudaLane>> lanes_;
  std::unique_ptr<RegisteredMemory> slots_;
};

}  // namespace gslice::cuda
