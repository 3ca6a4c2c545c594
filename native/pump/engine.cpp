#include "pump/engine.hpp"

#include <algorithm>
#include <cstring>

namespace gslice {
namespace {

Status internal(std::string message) { return Status::Error(Code::kInternal, std::move(message)); }

Shape shape_of(std::span<const std::int64_t> dims) {
  Shape shape;
  shape.rank = static_cast<std::uint32_t>(dims.size());
  std::ranges::copy(dims, shape.dims.begin());
  return shape;
}

}  // namespace

Result<std::size_t> serialised_bytes(std::span<const std::byte> data, std::uint64_t elements) {
  std::size_t offset = 0;
  for (std::uint64_t i = 0; i < elements; ++i) {
    std::uint32_t length = 0;
    if (data.size() - offset < sizeof(length))
      return internal("BYTES element " + std::to_string(i) + " is missing");
    std::memcpy(&length, data.data() + offset, sizeof(length));
    offset += sizeof(length);
    if (data.size() - offset < length)
      return internal("BYTES element " + std::to_string(i) + " is cut off");
    offset += length;
  }
  return offset;
}

Batch::Batch(const Signature& signature, std::uint32_t lane, OutputSink& sink)
    : signature_(signature),
      sink_(sink),
      lane_(lane),
      inputs_(signature.inputs.size()),
      outputs_(signature.outputs.size()),
      given_(signature.outputs.size()) {}

void Batch::reset(std::uint32_t rows, std::uint32_t bucket) {
  rows_ = rows;
  bucket_ = bucket;
  copies_ = copied_bytes_ = 0;
  buffer_.reset();
  std::fill(given_.begin(), given_.end(), false);
  for (Tensor& output : outputs_) output = {};
}

std::byte* Batch::output_target(std::uint32_t index) {
  if (outputs_[index].data != nullptr) given_[index] = true;
  return outputs_[index].data;
}

Status Batch::check_output(std::uint32_t index, DType dtype, std::span<const std::int64_t> dims,
                           std::span<const std::byte> data) const {
  const TensorSpec& spec = signature_.outputs[index];
  const auto where = [&] { return "output '" + spec.name + "'"; };
  if (dtype != spec.dtype)
    return internal(where() + " is " + std::string(dtype_info(dtype).name) +
                    ", the signature says " + std::string(dtype_info(spec.dtype).name));
  bool fits = dims.size() == spec.dims.size();
  for (std::size_t i = 0; fits && i < dims.size(); ++i)
    fits = dims[i] >= 0 && (spec.dims[i] == -1 || dims[i] == spec.dims[i]);
  if (!fits)
    return internal(where() + " has shape " + shape_text(dims) + ", the signature says " +
                    shape_text(spec.dims));
  if (signature_.rows_max != 0 && dims[0] != bucket_)
    return internal(where() + " has " + std::to_string(dims[0]) + " rows, the batch has " +
                    std::to_string(bucket_));
  const std::optional<std::uint64_t> needed = tensor_bytes(dims, dtype);
  if (!needed)
    return internal(where() + " has shape " + shape_text(dims) + ", whose size overflows");
  if (dtype == DType::kBytes) {
    const auto taken = serialised_bytes(data, *element_count(dims));
    if (taken.ok() && taken.value() == data.size()) return Status::Ok();
    return internal(where() + ": " +
                    (taken.ok() ? "more BYTES elements than its shape " + shape_text(dims) + " says"
                                : taken.status().message));
  }
  if (data.size() != *needed)
    return internal(where() + " has " + std::to_string(data.size()) + " bytes, its shape " +
                    shape_text(dims) + " needs " + std::to_string(*needed));
  return Status::Ok();
}

Status Batch::set_output(std::uint32_t index, DType dtype, std::span<const std::int64_t> dims,
                         std::span<const std::byte> data) {
  if (Status status = check_output(index, dtype, dims, data); !status.ok()) return status;
  given_[index] = true;
  Tensor& output = outputs_[index];
  if (output.data == nullptr) return sink_.store(index, shape_of(dims), data);
  ++copies_;
  copied_bytes_ += data.size();
  if (stream_ != nullptr) return stream_->copy_from_host(output.data, data);
  if (!data.empty()) std::memcpy(output.data, data.data(), data.size());
  return Status::Ok();
}

Status Batch::set_device_output(std::uint32_t index, DType dtype,
                                std::span<const std::int64_t> dims,
                                std::span<const std::byte> data) {
  if (dtype == DType::kBytes || stream_ == nullptr)
    return internal("output '" + signature_.outputs[index].name + "' can not be device memory");
  if (Status status = check_output(index, dtype, dims, data); !status.ok()) return status;
  given_[index] = true;
  Tensor& output = outputs_[index];
  if (output.data == nullptr) return stream_->keep(index, shape_of(dims), data);
  ++copies_;
  copied_bytes_ += data.size();
  return stream_->copy_from_device(output.data, data);
}

Status Batch::check_given() const {
  for (std::size_t i = 0; i < given_.size(); ++i)
    if (!given_[i])
      return internal("the engine gave no output '" + signature_.outputs[i].name + "'");
  return Status::Ok();
}

}  // namespace gslice
