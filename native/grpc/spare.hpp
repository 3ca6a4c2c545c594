// What has been used and will be again, so that the steady state allocates nothing.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace gslice::grpc {

template <typename T>
class Spare {
 public:
  // One that was put back, or a new one.
  template <typename... Arguments>
  std::unique_ptr<T> take(Arguments&&... arguments) {
    if (spare_.empty()) return std::make_unique<T>(std::forward<Arguments>(arguments)...);
    std::unique_ptr<T> taken = std::move(spare_.back());
    spare_.pop_back();
    return taken;
  }
  void put(std::unique_ptr<T> used) {
    if (spare_.size() < kMost) spare_.push_back(std::move(used));
  }

 private:
  static constexpr std::size_t kMost = 256;

  std::vector<std::unique_ptr<T>> spare_;
};

// Empties it; what it has allocated stays, unless that is much.
inline void empty(std::vector<std::byte>& bytes) {
  constexpr std::size_t kRoomBytes = 32 << 10;
  bytes.clear();
  if (bytes.capacity() > kRoomBytes) bytes.shrink_to_fit();
}

}  // namespace gslice::grpc
