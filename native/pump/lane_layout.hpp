// How a batch lies in a lane's buffer: its inputs, then its outputs of known shape. Served batches
// and those of warm-up lie alike, so that a graph captured over one runs over the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/signature.hpp"
#include "pump/engine.hpp"

namespace gslice {

inline std::size_t declared_bytes(const TensorSpec& spec, const Shape& shape) {
  return element_count(shape.view()) * dtype_info(spec.dtype).element_bytes;
}

// Hands out places one after the other.
class LaneLayout {
 public:
  std::size_t place(std::size_t bytes) {
    const std::size_t at = next_;
    next_ = align_up(at + bytes, kLaneAlign);
    return at;
  }
  std::size_t next() const { return next_; }
  std::size_t bytes() const { return std::max(next_, kLaneAlign); }

 private:
  std::size_t next_ = 0;
};

// What a batch of `bucket` rows takes; `input_bytes(i)` says how long input i then is.
template <typename InputBytes>
std::size_t lane_bytes(const Signature& signature, std::uint32_t bucket, InputBytes input_bytes) {
  LaneLayout layout;
  for (std::uint32_t i = 0; i < signature.inputs.size(); ++i) layout.place(input_bytes(i));
  for (const TensorSpec& spec : signature.outputs) {
    const DeclaredShape declared = declared_shape(spec, signature.rows_max != 0, bucket);
    if (declared.known) layout.place(declared_bytes(spec, declared.shape));
  }
  return layout.bytes();
}

}  // namespace gslice
