#include "cuda/copies.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace gslice::cuda {
namespace {

CUdeviceptr address(const std::byte* bytes) { return reinterpret_cast<CUdeviceptr>(bytes); }

}  // namespace

LaneCopies::LaneCopies(std::shared_ptr<Context> context, CUstream stream,
                       std::size_t staging_max_bytes)
    : context_(std::move(context)),
      stream_(stream),
      staging_max_bytes_(align_up(staging_max_bytes)) {}

Status LaneCopies::allocate_staging() {
  if (staging_max_bytes_ == 0) return Status::Ok();
  auto staging = PinnedBuffer::create(context_, 2 * staging_max_bytes_);
  if (!staging.ok()) return staging.status();
  staging_ = staging.take();
  return Status::Ok();
}

LaneCopies::Region LaneCopies::region_of(std::span<const Copy> list) {
  Region region{std::numeric_limits<std::size_t>::max(), 0, 0};
  for (const Copy& piece : list) {
    if (piece.bytes == 0) continue;
    region.begin = std::min(region.begin, piece.offset);
    region.end = std::max(region.end, piece.offset + piece.bytes);
    ++region.pieces;
  }
  return region;
}

// A single piece is one copy either way.
bool LaneCopies::is_staged(const Region& region) const {
  return region.pieces > 1 && region.bytes() <= staging_max_bytes_;
}

Status LaneCopies::gather(std::byte* buffer, std::span<const Copy> list) {
  clear();
  if (const Region region = region_of(list); is_staged(region)) {
    std::byte* const staging = staging_->data();
    for (const Copy& piece : list) {
      if (piece.slot != nullptr)
        std::memcpy(staging + piece.offset - region.begin, piece.slot, piece.bytes);
      else
        std::memset(staging + piece.offset - region.begin, 0, piece.bytes);
    }
    context_->counters().staged_copies += region.pieces;
    return copy(buffer + region.begin, staging, region.bytes());
  }
  for (const Copy& piece : list) {
    if (piece.slot != nullptr) {
      add(buffer + piece.offset, piece.slot, piece.bytes);
    } else if (piece.bytes != 0) {
      Status status = context_->check(context_->driver().cuMemsetD8Async(
                                          address(buffer + piece.offset), 0, piece.bytes, stream_),
                                      "cuMemsetD8Async");
      if (!status.ok()) return status;
    }
  }
  return flush();
}

Status LaneCopies::scatter(std::byte* buffer, std::span<const Copy> list) {
  clear();
  staged_ = {};
  if (const Region region = region_of(list); is_staged(region)) {
    staged_ = list;
    staged_begin_ = region.begin;
    context_->counters().staged_copies += region.pieces;
    return copy(staging_->data() + staging_max_bytes_, buffer + region.begin, region.bytes());
  }
  for (const Copy& piece : list) add(piece.slot, buffer + piece.offset, piece.bytes);
  return flush();
}

void LaneCopies::finish_scatter() {
  for (const Copy& piece : staged_)
    std::memcpy(piece.slot, staging_->data() + staging_max_bytes_ + piece.offset - staged_begin_,
                piece.bytes);
  staged_ = {};
}

Status LaneCopies::copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0) return Status::Ok();
  ++context_->counters().copies;
  return context_->check(
      context_->driver().cuMemcpyAsync(address(to), address(from), bytes, stream_),
      "cuMemcpyAsync");
}

void LaneCopies::add(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0) return;  // slots without any bytes are nowhere
  to_.push_back(address(to));
  from_.push_back(address(from));
  bytes_.push_back(bytes);
}

// A driver may have the call and refuse it, here or for such memory. What it does not refuse one by
// one it is not asked to take together again.
Status LaneCopies::flush() {
  if (bytes_.size() < 2 || !context_->batches_copies()) return enqueue_one_by_one();
  const CUresult result = enqueue_together();
  if (result != CUDA_ERROR_NOT_SUPPORTED && result != CUDA_ERROR_INVALID_VALUE)
    return context_->check(result, "cuMemcpyBatchAsync");
  Status status = enqueue_one_by_one();
  if (status.ok()) context_->copy_one_by_one();
  return status;
}

CUresult LaneCopies::enqueue_together() {
  CUmemcpyAttributes in_order{};
  in_order.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  std::size_t first = 0, failed = 0;
  const CUresult result =
      context_->driver().cuMemcpyBatchAsync(to_.data(), from_.data(), bytes_.data(), bytes_.size(),
                                            &in_order, &first, 1, &failed, stream_);
  if (result == CUDA_SUCCESS) context_->counters().batched_copies += bytes_.size();
  return result;
}

Status LaneCopies::enqueue_one_by_one() {
  context_->counters().copies += bytes_.size();
  Status status;
  for (std::size_t i = 0; i < bytes_.size() && status.ok(); ++i)
    status = context_->check(context_->driver().cuMemcpyAsync(to_[i], from_[i], bytes_[i], stream_),
                             "cuMemcpyAsync");
  return status;
}

// First, not last: a list that was given up half-way leaves nothing for the next.
void LaneCopies::clear() {
  to_.clear();
  from_.clear();
  bytes_.clear();
}

}  // namespace gslice::cuda
