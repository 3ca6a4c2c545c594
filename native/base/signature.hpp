// What a function takes and gives: the C++ twin of gslice.core.types.Signature.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.hpp"

namespace gslice {

inline constexpr std::size_t kMaxRank = 8;
inline constexpr std::size_t kMaxTensors = 32;  // inputs, and outputs, of one function

// Of tensors in slots: front-ends lay them out so, and engines may rely on it.
inline constexpr std::size_t kTensorAlign = 64;

// Of tensors in a lane's buffer: what the kernels of device libraries like best.
inline constexpr std::size_t kLaneAlign = 256;

constexpr std::size_t align_up(std::size_t bytes, std::size_t align = kTensorAlign) {
  return (bytes + align - 1) & ~(align - 1);
}

// "[1, 3, -1]"
inline std::string shape_text(std::span<const std::int64_t> dims) {
  std::string text = "[";
  for (const std::int64_t dim : dims) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

struct TensorSpec {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<std::int64_t> dims;  // -1: any length; includes the batch dimension
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::uint32_t rows_max = 0;          // 0: dim 0 is no batch dimension
  std::vector<std::uint32_t> buckets;  // ascending; empty: any size up to rows_max
};

}  // namespace gslice
