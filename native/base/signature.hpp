// What a function takes and gives: the C++ twin of gslice.core.types.Signature.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.hpp"

namespace gslice {

inline constexpr std::size_t kMaxRank = 8;
inline constexpr std::size_t kMaxTensors = 32;  // inputs, and outputs, of one function

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
