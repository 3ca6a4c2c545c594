// How a batch lies in a lane's buffer: its inputs, then its outputs of known shape. Served batches
// and those of warm-up lie alike, so that a graph captured over one runs over the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/signature.hpp"

namespace gslice {

inline constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 62;  // so that sums of two fit

// Hands out places one after the other.
class LaneLayout {
 public:
  std::size_t place(std::size_t bytes) {
    const std::size_t at = next_;
    next_ = align_up(at + bytes, kLaneAlign);
    return at;
  }
  std::size_t next() const { return next_; }
  std::size_t bytes() const { return std::max(next_, kLaneAlign); }  // of nothing none were given

 private:
  std::size_t next_ = 0;
};

// What a batch of `bucket` rows takes, of which `input_bytes(i)` says how long input i then is.
// Nothing where that, or any tensor, is more than any memory.
template <typename InputBytes>
std::optional<std::size_t> lane_bytes(const Signature& signature, std::uint32_t bucket,
                                      InputBytes input_bytes) {
  LaneLayout layout;
  const auto place = [&](std::optional<std::uint64_t> bytes) {
    if (!bytes || *bytes > kMostBytes) return false;
    layout.place(*bytes);
    return layout.bytes() <= kMostBytes;
  };
  for (std::uint32_t i = 0; i < signature.inputs.size(); ++i)
    if (!place(input_bytes(i))) return std::nullopt;
  for (const TensorSpec& spec : signature.outputs) {
    const auto shape = declared_shape(spec, signature.rows_max != 0, bucket);
    if (shape && !place(tensor_bytes(shape->view(), spec.dtype))) return std::nullopt;
  }
  return layout.bytes();
}

}  // namespace gslice
