#include "cuda/memory.hpp"

#include <algorithm>

#include "base/signature.hpp"

namespace gslice::cuda {
namespace {

constexpr std::size_t kSmallestChunkBytes = 64 << 10;

}  // namespace

Status sized(Status status, std::size_t bytes) {
  status.message = std::to_string(bytes) + " bytes: " + status.message;
  return status;
}

Result<std::unique_ptr<DeviceBuffer>> DeviceBuffer::create(std::shared_ptr<Context> context,
                                                           std::size_t bytes) {
  CUdeviceptr address = 0;
  if (Status status = context->enter(); !status.ok()) return status;
  ++context->counters().allocations;
  if (Status status = context->check(context->driver().cuMemAlloc(&address, bytes), "cuMemAlloc");
      !status.ok())
    return sized(status, bytes);
  return std::unique_ptr<DeviceBuffer>(new DeviceBuffer(std::move(context), address, bytes));
}

DeviceBuffer::~DeviceBuffer() {
  if (context_->enter().ok())
    (void)context_->check(context_->driver().cuMemFree(address_), "cuMemFree");
}

Result<std::unique_ptr<PinnedBuffer>> PinnedBuffer::create(std::shared_ptr<Context> context,
                                                           std::size_t bytes) {
  void* data = nullptr;
  if (Status status = context->enter(); !status.ok()) return status;
  ++context->counters().allocations;
  if (Status status =
          context->check(context->driver().cuMemHostAlloc(&data, bytes, CU_MEMHOSTALLOC_PORTABLE),
                         "cuMemHostAlloc");
      !status.ok())
    return sized(status, bytes);
  return std::unique_ptr<PinnedBuffer>(
      new PinnedBuffer(std::move(context), static_cast<std::byte*>(data), bytes));
}

PinnedBuffer::~PinnedBuffer() {
  if (context_->enter().ok())
    (void)context_->check(context_->driver().cuMemFreeHost(data_), "cuMemFreeHost");
}

Result<std::unique_ptr<RegisteredMemory>> RegisteredMemory::create(std::shared_ptr<Context> context,
                                                                   std::span<std::byte> memory) {
  if (Status status = context->enter(); !status.ok()) return status;
  ++context->counters().allocations;
  if (Status status = context->check(context->driver().cuMemHostRegister(
                                         memory.data(), memory.size(), CU_MEMHOSTREGISTER_PORTABLE),
                                     "cuMemHostRegister");
      !status.ok())
    return sized(status, memory.size());
  return std::unique_ptr<RegisteredMemory>(new RegisteredMemory(std::move(context), memory.data()));
}

RegisteredMemory::~RegisteredMemory() {
  if (context_->enter().ok())
    (void)context_->check(context_->driver().cuMemHostUnregister(data_), "cuMemHostUnregister");
}

Result<std::byte*> PinnedArena::take(std::size_t bytes) {
  const std::size_t needed = align_up(bytes);
  while (chunk_ < chunks_.size() && chunks_[chunk_]->bytes() - used_ < needed) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const std::size_t before = chunks_.empty() ? 0 : chunks_.back()->bytes();
    auto chunk =
        PinnedBuffer::create(context_, std::max({needed, 2 * before, kSmallestChunkBytes}));
    if (!chunk.ok()) return chunk.status();
    chunks_.push_back(chunk.take());
  }
  std::byte* const at = chunks_[chunk_]->data() + used_;
  used_ += needed;
  return at;
}

}  // namespace gslice::cuda
