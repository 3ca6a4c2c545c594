#include "pump/recorder.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

namespace gslice {

bool Recorder::begin(std::uint32_t requests, std::size_t bytes, std::int64_t until_ns) {
  std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[bytes]);
  if (!memory) return false;
  const std::lock_guard lock(mutex_);
  memory_ = std::move(memory);
  capacity_ = bytes;
  used_ = 0;
  taken_ = 0;
  until_ns_ = until_ns;
  full_ = false;
  left_.store(requests, std::memory_order_relaxed);
  return true;
}

void Recorder::take(std::span<const Tensor> inputs, std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  if (left() == 0) return;
  if (now_ns >= until_ns_) {  // nobody has come for it
    left_.store(0, std::memory_order_relaxed);
    memory_.reset();
    capacity_ = used_ = 0;
    taken_ = 0;
    return;
  }
  const std::size_t before = used_;
  if (std::ranges::all_of(inputs, [&](const Tensor& input) { return append(input); })) {
    ++taken_;
    left_.store(left() - 1, std::memory_order_relaxed);
    return;
  }
  used_ = before;
  full_ = true;
  left_.store(0, std::memory_order_relaxed);
}

std::uint32_t Recorder::taken() const {
  const std::lock_guard lock(mutex_);
  return taken_;
}

Recorder::Recording Recorder::end() {
  const std::lock_guard lock(mutex_);
  left_.store(0, std::memory_order_relaxed);
  Recording recording{taken_, full_, {memory_.get(), memory_.get() + used_}};
  memory_.reset();
  capacity_ = used_ = 0;
  taken_ = 0;
  full_ = false;
  return recording;
}

bool Recorder::append(const Tensor& input) {
  const auto dims = input.shape.view();
  const std::array<std::uint64_t, 1> rank{dims.size()}, length{input.bytes};
  return append(std::as_bytes(std::span(rank))) && append(std::as_bytes(dims)) &&
         append(std::as_bytes(std::span(length))) &&
         append(std::span<const std::byte>(input.data, input.bytes));
}

bool Recorder::append(std::span<const std::byte> bytes) {
  if (bytes.size() > capacity_ - used_) return false;
  std::ranges::copy(bytes, memory_.get() + used_);
  used_ += bytes.size();
  return true;
}

}  // namespace gslice
