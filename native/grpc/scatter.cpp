#include "grpc/scatter.hpp"

#include <nghttp2/nghttp2.h>

#include <algorithm>

namespace gslice::grpc {

// NOLINTNEXTLINE: nothing of its arrays is read that has not been written
Scatter::Scatter(std::span<std::byte> room, const Frames& frames, std::span<std::byte> scratch)
    : stream_(frames.stream) {
  const auto first = room.first(std::min(room.size(), frames.left_bytes));
  first_bytes_ = first.size();
  add(first);
  if (frames.repeat && !first.empty() && first.size() == frames.left_bytes) {
    for (room = room.subspan(first.size()); !room.empty() && ahead_ < kAhead; ++ahead_) {
      const auto payload = room.first(std::min(room.size(), frames.frame_bytes));
      add(headers_[ahead_]);
      add(payload);
      room = room.subspan(payload.size());
    }
  }
  add(scratch);
}

void Scatter::add(std::span<std::byte> bytes) {
  if (bytes.empty()) return;
  pieces_[count_++] = {bytes.data(), bytes.size()};
  room_bytes_ += bytes.size();
}

// Whether a header is that of the frame for whose payload the piece behind it is. What is longer
// than the last piece goes on in the scratch.
bool Scatter::announces(std::size_t frame) const {
  const auto at = [&](std::size_t i) { return std::to_integer<std::uint32_t>(headers_[frame][i]); };
  const std::size_t length = at(0) << 16 | at(1) << 8 | at(2);
  const std::size_t payload = pieces_[2 * frame + 2].iov_len;
  const std::uint32_t stream = (at(5) & 0x7f) << 24 | at(6) << 16 | at(7) << 8 | at(8);
  return at(3) == NGHTTP2_DATA && (at(4) & NGHTTP2_FLAG_PADDED) == 0 &&
         stream == static_cast<std::uint32_t>(stream_) &&
         (length == payload || (length > payload && frame + 1 == ahead_));
}

// How many of the bytes lie where they belong.
std::size_t Scatter::foreseen_bytes(std::size_t bytes) const {
  std::size_t at = first_bytes_;
  for (std::size_t i = 0; i < ahead_; ++i) {
    if (bytes < at + kHeaderBytes) return bytes;  // of its payload, nothing has come
    if (!announces(i)) return at;
    at += kHeaderBytes + pieces_[2 * i + 2].iov_len;
  }
  return bytes;
}

std::vector<std::byte> Scatter::copied(std::size_t from, std::size_t bytes) const {
  std::vector<std::byte> out;
  if (from >= bytes) return out;
  out.reserve(bytes - from);
  std::size_t at = 0;
  for (const iovec& piece : pieces()) {
    const std::size_t end = std::min(bytes, at + piece.iov_len);
    if (end > from) {
      const std::size_t skipped = std::max(from, at) - at;
      const auto part = bytes_of(piece).subspan(skipped, end - at - skipped);
      out.insert(out.end(), part.begin(), part.end());
    }
    at += piece.iov_len;
    if (at >= bytes) break;
  }
  return out;
}

}  // namespace gslice::grpc
