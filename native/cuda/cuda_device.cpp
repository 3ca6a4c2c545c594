#include "cuda/cuda_device.hpp"

#include <algorithm>
#include <string>

namespace gslice::cuda {
namespace {

Status precondition(std::string message) {
  return Status::Error(Code::kFailedPrecondition, std::move(message));
}

}  // namespace

// ---- life --------------------------------------------------------------------------------------

Result<std::shared_ptr<CudaDevice>> CudaDevice::open(int ordinal, std::uint32_t lanes,
                                                     std::size_t staging_max_bytes,
                                                     std::shared_ptr<GreenContext> green) {
  auto context = Context::open(ordinal);
  if (!context.ok()) return context.status();
  std::shared_ptr<CudaDevice> device(new CudaDevice());
  device->context_ = context.take();
  device->info_ = device->context_->info();
  device->counters_ = device->context_->counters_of();
  device->lane_count_ = lanes;
  device->staging_max_bytes_ = staging_max_bytes;
  device->openings_.resize(lanes);
  Side& side = device->sides_[0];
  side.green = std::move(green);
  if (Status status = device->make_lanes(side, 0); !status.ok()) return status;
  for (const auto& lane : side.lanes) device->serving_in_.push_back(lane.get());
  return device;
}

Status CudaDevice::make_lanes(Side& side, std::uint32_t first_place) {
  for (std::uint32_t i = 0; i < lane_count_; ++i) {
    auto lane = CudaLane::create(context_, side.green, first_place + i, staging_max_bytes_);
    if (!lane.ok()) {
      side = {};
      return lane.status();
    }
    side.lanes.push_back(lane.take());
  }
  return Status::Ok();
}

Status CudaDevice::close() {
  if (slots_ != nullptr ||
      std::ranges::any_of(serving_in_, [](const CudaLane* lane) { return lane->open(); }))
    return precondition("the device is in use; stop the instance first");
  serving_in_.clear();
  sides_ = {};
  context_.reset();
  return Status::Ok();
}

std::uint32_t CudaDevice::sms() const {
  const auto& green = sides_[serving_].green;
  return green ? green->sms() : static_cast<std::uint32_t>(info_.sm_count);
}

bool CudaDevice::has_lane(std::uint32_t place) const {
  return place < place_count() && !sides_[place / lane_count_].lanes.empty();
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
  if (lane >= serving_in_.size())
    return precondition("the device has " + std::to_string(lane_count_) + " lanes, not " +
                        std::to_string(lane + 1));
  if (Status status = serving_in_[lane]->open(engine, done); !status.ok()) return status;
  openings_[lane] = {&engine, std::move(done)};
  return Status::Ok();
}

// After a move that was broken off, others serve in their places.
void CudaDevice::close_lane(std::uint32_t lane) {
  for (const Side& side : sides_)
    if (!side.lanes.empty()) side.lanes[lane]->close();
  openings_[lane] = {};
}

// ---- a batch -----------------------------------------------------------------------------------

std::shared_ptr<std::byte> CudaDevice::buffer(std::uint32_t lane, std::size_t bytes, bool* grown) {
  return serving_in_[lane]->buffer(bytes, grown);
}

void CudaDevice::copy_in(std::uint32_t lane, std::span<const Copy> gather) {
  serving_in_[lane]->gather = gather;
}

void CudaDevice::compute(std::uint32_t lane, Batch& batch) { serving_in_[lane]->batch = &batch; }

void CudaDevice::copy_out(std::uint32_t lane, std::span<const Copy> scatter) {
  serving_in_[lane]->scatter = scatter;
}

std::int64_t CudaDevice::next_poll_ns(std::int64_t now_ns) const {
  std::int64_t next_ns = kNever;
  for (const CudaLane* lane : serving_in_) next_ns = std::min(next_ns, lane->next_poll_ns(now_ns));
  return next_ns;
}

Status CudaDevice::lost() const { return context_ == nullptr ? Status::Ok() : context_->lost(); }

std::vector<int> CudaDevice::compute_tids() const {
  std::vector<int> tids;
  for (const Side& side : sides_)
    for (const auto& lane : side.lanes)
      if (lane->tid() != 0) tids.push_back(lane->tid());
  return tids;
}

// ---- a move ------------------------------------------------------------------------------------

Status CudaDevice::prepare_move(std::shared_ptr<GreenContext> green) {
  if (context_ == nullptr) return precondition("the device is closed");
  if (green == nullptr || sides_[serving_].green == nullptr)
    return precondition("only lanes on a part of a device can move to another");
  Side& spare = sides_[other()];
  if (!spare.lanes.empty()) return precondition("the device has spare lanes already");
  spare.green = std::move(green);
  return make_lanes(spare, other_place());
}

// When the device was lost in a move, some serve in them already: they go with the device.
void CudaDevice::drop_spare() {
  const auto serves = [&](const auto& lane) {
    return std::ranges::find(serving_in_, lane.get()) != serving_in_.end();
  };
  Side& spare = sides_[other()];
  if (std::ranges::none_of(spare.lanes, serves)) spare = {};
}

// Threads are started here, not where a lane's next batch waits for it.
Status CudaDevice::begin_move() {
  const Side& spare = sides_[other()];
  if (spare.lanes.empty()) return precondition("the device has no lanes to move to");
  const auto unused = [](const Opening& opening) { return opening.engine == nullptr; };
  if (std::ranges::any_of(openings_, unused))
    return precondition("the instance does not serve in every lane of the device");
  for (std::uint32_t i = 0; i < lane_count_; ++i) {
    Status status = spare.lanes[i]->open(*openings_[i].engine, openings_[i].done);
    if (status.ok()) continue;
    for (std::uint32_t opened = 0; opened < i; ++opened) spare.lanes[opened]->close();
    return status;
  }
  return Status::Ok();
}

void CudaDevice::move_lane(std::uint32_t lane) {
  serving_in_[lane] = sides_[other()].lanes[lane].get();
}

void CudaDevice::end_move() {
  serving_ = other();
  for (const auto& left : sides_[other()].lanes) left->close();
}

}  // namespace gslice::cuda
