// What a function takes and gives: the C++ twin of gslice.core.types.Signature, and the arithmetic
// of tensor sizes, which is checked here and nowhere else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.hpp"
#include "base/status.hpp"

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
std::string shape_text(std::span<const std::int64_t> dims);

// Nothing where a dim is negative or the product does not fit.
std::optional<std::uint64_t> element_count(std::span<const std::int64_t> dims);

// Bytes of a tensor of dims, below 2^63; of BYTES the fewest, which are its elements' lengths.
// Nothing where element_count gives nothing or the bytes do not fit.
std::optional<std::uint64_t> tensor_bytes(std::span<const std::int64_t> dims, DType dtype);

// A tensor's dims, without an allocation.
struct Shape {
  std::array<std::int64_t, kMaxRank> dims{};
  std::uint32_t rank = 0;

  std::span<const std::int64_t> view() const { return {dims.data(), rank}; }
  bool operator==(const Shape&) const = default;
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<std::int64_t> dims;  // -1: any length; includes the batch dimension
};

// What check_signature() has passed: whoever is handed one relies on it.
struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::uint32_t rows_max = 0;          // 0: dim 0 is no batch dimension
  std::vector<std::uint32_t> buckets;  // ascending; empty: any size up to rows_max
};

// kInvalidArgument: more tensors or dimensions than there is room for, an unknown data type, no
// batch dimension where rows are to be batched, or buckets that do not ascend to rows_max.
Status check_signature(const Signature& signature);

// The shape of a tensor with `rows` as its batch dimension, if it has one. Nothing if that does not
// say its size: only the model knows it.
std::optional<Shape> declared_shape(const TensorSpec& spec, bool batchable, std::uint32_t rows);

}  // namespace gslice
