// Copies of the inputs of requests that an instance launches, on somebody's order: what samples are
// made of. Without an order a pump asks one word a batch; with one it copies into memory that was
// there before, and no more than that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "pump/engine.hpp"

namespace gslice {

class Recorder {
 public:
  // Takes the next requests, as many as fit, until `until_ns`; what was taken before is forgotten.
  // False: there is no such memory.
  bool begin(std::uint32_t requests, std::size_t bytes, std::int64_t until_ns);
  // Of those ordered, how many are still to come; 0: nothing more is taken.
  std::uint32_t left() const { return left_.load(std::memory_order_relaxed); }
  // The pump: one request. What is not whole is not kept.
  void take(std::span<const Tensor> inputs, std::int64_t now_ns);

  struct Recording {
    std::uint32_t requests = 0;
    bool full = false;  // one more did not fit
    // Of each request, of each input: its rank, its dims, its length in bytes (64 bits each), and
    // these.
    std::vector<std::byte> bytes;
  };
  std::uint32_t taken() const;
  // Ends the order, and forgets what was taken.
  Recording end();

 private:
  bool append(const Tensor& input);
  bool append(std::span<const std::byte> bytes);

  std::atomic<std::uint32_t> left_{0};
  mutable std::mutex mutex_;
  std::unique_ptr<std::byte[]> memory_;
  std::size_t capacity_ = 0, used_ = 0;
  std::uint32_t taken_ = 0;
  std::int64_t until_ns_ = 0;
  bool full_ = false;
};

}  // namespace gslice
