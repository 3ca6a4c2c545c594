// Memory for nghttp2, which takes and gives back the same few sizes for every call.
// Single-threaded.
#pragma once

#include <nghttp2/nghttp2.h>

#include <array>
#include <cstddef>
#include <vector>

namespace gslice::grpc {

class MemoryPool {
 public:
  MemoryPool();
  ~MemoryPool();  // after the last session
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  nghttp2_mem* memory() { return &memory_; }
  std::size_t asked() const { return asked_; }  // how often nothing fitted, and the heap gave it

 private:
  static constexpr std::size_t kStepBytes = 64;
  static constexpr std::size_t kClasses = 64;     // up to 4 KiB; what is larger is seldom
  static constexpr std::size_t kSpareMax = 1024;  // of a class

  struct Block;

  void* take(std::size_t bytes);
  void give(void* start);
  void* resize(void* start, std::size_t bytes);

  nghttp2_mem memory_;
  std::size_t asked_ = 0;
  std::array<std::vector<Block*>, kClasses> spare_;
};

}  // namespace gslice::grpc
