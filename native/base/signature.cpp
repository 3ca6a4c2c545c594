#include "base/signature.hpp"

#include <algorithm>
#include <functional>
#include <utility>

namespace gslice {
namespace {

Status invalid(std::string message) {
  return Status::Error(Code::kInvalidArgument, std::move(message));
}

bool has_batch_dimension(const TensorSpec& tensor) {
  return !tensor.dims.empty() && tensor.dims[0] == -1;
}

Status check_tensors(const std::vector<TensorSpec>& tensors, const std::string& kind) {
  if (tensors.size() > kMaxTensors)
    return invalid("a signature has " + std::to_string(tensors.size()) + " " + kind +
                   "s; at most " + std::to_string(kMaxTensors) + " are possible");
  for (const TensorSpec& tensor : tensors) {
    const std::string where = kind + " '" + tensor.name + "'";
    if (tensor.dtype >= DType::kInvalid) return invalid(where + " has no known data type");
    if (tensor.dims.size() > kMaxRank)
      return invalid(where + " has rank " + std::to_string(tensor.dims.size()) + "; at most " +
                     std::to_string(kMaxRank) + " is possible");
    if (std::ranges::any_of(tensor.dims, [](std::int64_t dim) { return dim < -1; }))
      return invalid(where + " has a dimension below -1");
  }
  return Status::Ok();
}

Status check_batching(const Signature& signature) {
  if (signature.rows_max == 0) return Status::Ok();
  if (signature.inputs.empty()) return invalid("a signature that batches rows needs an input");
  for (const auto* tensors : {&signature.inputs, &signature.outputs})
    for (const TensorSpec& tensor : *tensors)
      if (!has_batch_dimension(tensor))
        return invalid("tensor '" + tensor.name + "' has shape " + shape_text(tensor.dims) +
                       "; a signature that batches rows needs -1 as its first dimension");
  return Status::Ok();
}

Status check_buckets(const Signature& signature) {
  const auto& buckets = signature.buckets;
  if (buckets.empty()) return Status::Ok();
  if (buckets.front() > 0 && buckets.back() == signature.rows_max &&
      std::ranges::adjacent_find(buckets, std::greater_equal<>{}) == buckets.end())
    return Status::Ok();
  return invalid("buckets must ascend, start above 0 and end at rows_max " +
                 std::to_string(signature.rows_max));
}

}  // namespace

std::string shape_text(std::span<const std::int64_t> dims) {
  std::string text = "[";
  for (const std::int64_t dim : dims) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

std::optional<std::uint64_t> element_count(std::span<const std::int64_t> dims) {
  std::uint64_t count = 1;
  for (const std::int64_t dim : dims)
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<std::uint64_t>(dim), &count))
      return std::nullopt;
  return count;
}

std::optional<std::uint64_t> tensor_bytes(std::span<const std::int64_t> dims, DType dtype) {
  const std::uint64_t element_bytes =
      dtype == DType::kBytes ? sizeof(std::uint32_t) : dtype_info(dtype).element_bytes;
  const std::optional<std::uint64_t> elements = element_count(dims);
  std::int64_t bytes = 0;
  if (!elements || __builtin_mul_overflow(*elements, element_bytes, &bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

Status check_signature(const Signature& signature) {
  if (Status status = check_tensors(signature.inputs, "input"); !status.ok()) return status;
  if (Status status = check_tensors(signature.outputs, "output"); !status.ok()) return status;
  if (Status status = check_batching(signature); !status.ok()) return status;
  return check_buckets(signature);
}

std::optional<Shape> declared_shape(const TensorSpec& spec, bool batchable, std::uint32_t rows) {
  if (spec.dtype == DType::kBytes) return std::nullopt;
  Shape shape;
  shape.rank = static_cast<std::uint32_t>(spec.dims.size());
  std::ranges::copy(spec.dims, shape.dims.begin());
  if (batchable) shape.dims[0] = rows;
  if (std::ranges::any_of(shape.view(), [](std::int64_t dim) { return dim < 0; }))
    return std::nullopt;
  return shape;
}

}  // namespace gslice
