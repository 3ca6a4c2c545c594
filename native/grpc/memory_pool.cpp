#include "grpc/memory_pool.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace gslice::grpc {

// What is in front of each piece of memory.
struct alignas(std::max_align_t) MemoryPool::Block {
  std::size_t bytes;  // that follow

  void* start() { return this + 1; }
  static Block* of(void* start) { return static_cast<Block*>(start) - 1; }
};

MemoryPool::MemoryPool() {
  memory_.mem_user_data = this;
  memory_.malloc = [](std::size_t bytes, void* user) {
    return static_cast<MemoryPool*>(user)->take(bytes);
  };
  memory_.free = [](void* start, void* user) { static_cast<MemoryPool*>(user)->give(start); };
  memory_.calloc = [](std::size_t count, std::size_t bytes, void* user) -> void* {
    std::size_t whole = 0;
    if (__builtin_mul_overflow(count, bytes, &whole)) return nullptr;
    void* start = static_cast<MemoryPool*>(user)->take(whole);
    return start == nullptr ? nullptr : std::memset(start, 0, whole);
  };
  memory_.realloc = [](void* start, std::size_t bytes, void* user) {
    return static_cast<MemoryPool*>(user)->resize(start, bytes);
  };
}

MemoryPool::~MemoryPool() {
  for (const auto& blocks : spare_)
    for (Block* block : blocks) std::free(block);
}

void* MemoryPool::take(std::size_t bytes) {
  const std::size_t steps = (std::max<std::size_t>(bytes, 1) + kStepBytes - 1) / kStepBytes;
  if (steps <= kClasses && !spare_[steps - 1].empty()) {
    Block* block = spare_[steps - 1].back();
    spare_[steps - 1].pop_back();
    return block->start();
  }
  ++asked_;
  auto* block = static_cast<Block*>(std::malloc(sizeof(Block) + steps * kStepBytes));
  if (block == nullptr) return nullptr;
  block->bytes = steps * kStepBytes;
  return block->start();
}

void MemoryPool::give(void* start) {
  if (start == nullptr) return;
  Block* block = Block::of(start);
  const std::size_t steps = block->bytes / kStepBytes;
  if (steps > kClasses || spare_[steps - 1].size() >= kSpareMax) return std::free(block);
  spare_[steps - 1].push_back(block);
}

void* MemoryPool::resize(void* start, std::size_t bytes) {
  if (start == nullptr) return take(bytes);
  if (bytes <= Block::of(start)->bytes) return start;
  void* larger = take(bytes);
  if (larger == nullptr) return nullptr;
  std::memcpy(larger, start, Block::of(start)->bytes);
  give(start);
  return larger;
}

}  // namespace gslice::grpc
