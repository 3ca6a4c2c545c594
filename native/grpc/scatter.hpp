// Where a connection's bytes are read to. The rest of a DATA frame belongs into a slot, and so does
// what others like it have that are likely to follow at once: one read has all of them go there,
// and their headers beside. If something else came, it is put together again.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace gslice::grpc {

// DATA frames of a stream that follow each other.
struct Frames {
  std::int32_t stream = 0;
  std::size_t frame_bytes = 0;  // of each: only the last may have another size
  std::size_t left_bytes = 0;   // of the one that has begun
  bool repeat = false;          // there was another like it before
};

class Scatter {
 public:
  // `room`: where what comes next belongs; `scratch`: where anything may lie.
  Scatter(std::span<std::byte> room, const Frames& frames, std::span<std::byte> scratch);

  std::span<const iovec> pieces() const { return std::span(pieces_).first(count_); }
  std::size_t room_bytes() const { return room_bytes_; }

  // Has `handle` take all `bytes` that were read, in order; false if it did so once.
  template <typename Handle>
  bool take(std::size_t bytes, Handle&& handle) const {
    const std::size_t foreseen = foreseen_bytes(bytes);
    // Now: once the first is handled, the slot may be another's.
    const std::vector<std::byte> rest = copied(foreseen, bytes);
    std::size_t left = foreseen;
    for (const iovec& piece : pieces()) {
      if (left == 0) break;
      const auto part = bytes_of(piece).first(std::min(left, piece.iov_len));
      if (!handle(part)) return false;
      left -= part.size();
    }
    return rest.empty() || handle(std::span<const std::byte>(rest));
  }

 private:
  static constexpr std::size_t kHeaderBytes = 9;
  static constexpr std::size_t kAhead = 32;  // frames

  static std::span<const std::byte> bytes_of(const iovec& piece) {
    return {static_cast<const std::byte*>(piece.iov_base), piece.iov_len};
  }
  void add(std::span<std::byte> bytes);
  bool announces(std::size_t frame) const;
  std::size_t foreseen_bytes(std::size_t bytes) const;
  std::vector<std::byte> copied(std::size_t from, std::size_t bytes) const;

  std::int32_t stream_;
  std::size_t first_bytes_ = 0;  // of the frame that has begun
  std::size_t ahead_ = 0;        // frames
  std::size_t count_ = 0;        // of pieces
  std::size_t room_bytes_ = 0;
  std::array<std::array<std::byte, kHeaderBytes>, kAhead> headers_;  // written by reads
  std::array<iovec, 2 * kAhead + 2> pieces_;
};

}  // namespace gslice::grpc
