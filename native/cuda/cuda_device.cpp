#include "cuda/cuda_device.hpp"

#include <algorithm>
#include <string>

namespace gslice::cuda {
namespace {

Status precondition(std::string message) {
  return Status::Error(Code::kFailedPrecondition, std::move(message));
}

}  // namespace

Result<std::shared_ptr<CudaDevice>> CudaDevice::open(int ordinal, std::uint32_t lanes,
                                                     std::size_t staging_max_bytes) {
  auto context = Context::open(ordinal);
  if (!context.ok()) return context.status();
  std::shared_ptr<CudaDevice> device(new CudaDevice());
  device->context_ = context.take();
  device->info_ = device->context_->info();
  device->counters_ = device->context_->counters_of();
  device->lane_count_ = lanes;
  for (std::uint32_t i = 0; i < lanes; ++i) {
    auto lane = CudaLane::create(device->context_, i, staging_max_bytes);
    if (!lane.ok()) return lane.status();
    device->lanes_.push_back(lane.take());
  }
  return device;
}

Status CudaDevice::close() {
  if (slots_ != nullptr ||
      std::ranges::any_of(lanes_, [](const auto& lane) { return lane->open(); }))
    return precondition("the device is in use; stop the instance first");
  lanes_.clear();
  context_.reset();
  return Status::Ok();
}

Status CudaDevice::attach(std::span<std::byte> slots) {
  if (context_ == nullptr) return precondition("the device is closed");
  if (slots_ != nullptr) return precondition("the device serves another instance");
  auto registered = RegisteredMemory::create(context_, slots);
  if (!registered.ok()) return registered.status();
  slots_ = registered.take();
  return Status::Ok();
}

Status CudaDevice::open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) {
  if (lane >= lanes_.size())
    return precondition("the device has " + std::to_string(lane_count_) + " lanes, not " +
                        std::to_string(lane + 1));
  return lanes_[lane]->open(engine, std::move(done));
}

std::shared_ptr<std::byte> CudaDevice::buffer(std::uint32_t lane, std::size_t bytes, bool* grown) {
  return lanes_[lane]->buffer(bytes, grown);
}

void CudaDevice::copy_in(std::uint32_t lane, std::span<const Copy> gather) {
  lanes_[lane]->gather = gather;
}

void CudaDevice::compute(std::uint32_t lane, Batch& batch) { lanes_[lane]->batch = &batch; }

void CudaDevice::copy_out(std::uint32_t lane, std::span<const Copy> scatter) {
  lanes_[lane]->scatter = scatter;
}

std::int64_t CudaDevice::next_poll_ns(std::int64_t now_ns) const {
  std::int64_t next_ns = kNever;
  for (const auto& lane : lanes_) next_ns = std::min(next_ns, lane->next_poll_ns(now_ns));
  return next_ns;
}

Status CudaDevice::lost() const { return context_ == nullptr ? Status::Ok() : context_->lost(); }

std::vector<int> CudaDevice::compute_tids() const {
  std::vector<int> tids;
  for (const auto& lane : lanes_)
    if (lane->tid() != 0) tids.push_back(lane->tid());
  return tids;
}

}  // namespace gslice::cuda
