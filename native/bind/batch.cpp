#include "bind/batch.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "bind/arguments.hpp"
#include "bind/cuda.hpp"
#include "bind/errors.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using gslice::bytes_of;
using HostArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// NumPy has no bfloat16: such tensors are arrays of their 16-bit patterns.
constexpr std::array<nb::dlpack::dtype, 13> kArrayTypes{{
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bool), 8, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 8, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 16, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 32, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 64, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 8, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 16, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 32, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 64, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 16, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 32, 1},
    {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 64, 1},
}};

// The data type that an array stands for where `expected` is wanted; kInvalid: none that we know.
DType dtype_of(const HostArray& array, DType expected) {
  if (expected != DType::kBytes && kArrayTypes[static_cast<std::size_t>(expected)] == array.dtype())
    return expected;
  const auto found = std::ranges::find(kArrayTypes, array.dtype());
  return found == kArrayTypes.end() ? DType::kInvalid
                                    : static_cast<DType>(found - kArrayTypes.begin());
}

std::span<const std::byte> bytes_of(const HostArray& array) {
  return {static_cast<const std::byte*>(array.data()), array.nbytes()};
}

[[noreturn]] void invalid(std::string message) {
  raise(Status::Error(Code::kInvalidArgument, std::move(message)));
}

const Tensor& input_of(const BatchView& view, std::uint32_t index) {
  const Batch& batch = view.checked();
  if (index >= batch.signature().inputs.size())
    invalid("there is no input " + std::to_string(index));
  return batch.input(index);
}

Batch& output_of(const BatchView& view, std::uint32_t index) {
  Batch& batch = view.checked();
  if (index >= batch.signature().outputs.size())
    invalid("there is no output " + std::to_string(index));
  return batch;
}

// A view of an input is one of host memory.
const Tensor& host_input_of(const BatchView& view, std::uint32_t index) {
  if (view.checked().stream() != nullptr)
    raise(Status::Error(Code::kFailedPrecondition,
                        "the inputs of this batch are device memory: ask for input_ptr"));
  return input_of(view, index);
}

// `rows`: of a batch; 0 if it has no such dimension.
void check_dims(const TensorSpec& spec, std::span<const std::int64_t> dims, std::uint32_t rows) {
  if (dims.size() != spec.dims.size() ||
      std::ranges::any_of(dims, [](std::int64_t dim) { return dim < 0; }))
    invalid("input '" + spec.name + "' needs rank " + std::to_string(spec.dims.size()) +
            " and no negative dims, not " + shape_text(dims));
  if (rows != 0 && dims[0] != rows)
    invalid("input '" + spec.name + "' has " + std::to_string(dims[0]) + " rows, the batch has " +
            std::to_string(rows));
}

nb::tuple shape_tuple(const Shape& shape) {
  nb::list dims;
  for (const std::int64_t dim : shape.view()) dims.append(dim);
  return nb::tuple(dims);
}

// Keeps the memory of the batch's tensors for as long as a view of them lives: the user may keep
// one when the batch, and even the instance, is gone.
nb::capsule owner_of(const BatchView& view) {
  const std::shared_ptr<void>& buffer = view.checked().buffer();
  auto owner = std::make_unique<std::shared_ptr<void>>(buffer ? buffer : view.memory);
  nb::capsule capsule(
      owner.get(), [](void* held) noexcept { delete static_cast<std::shared_ptr<void>*>(held); });
  owner.release();
  return capsule;
}

nb::object input_array(const BatchView& view, std::uint32_t index) {
  const Tensor& tensor = host_input_of(view, index);
  const TensorSpec& spec = view.batch->signature().inputs[index];
  if (spec.dtype == DType::kBytes)
    invalid("input '" + spec.name + "' is BYTES: ask for input_bytes");
  std::array<std::size_t, kMaxRank> dims{};
  std::ranges::copy(tensor.shape.view(), dims.begin());
  return nb::cast(
      nb::ndarray<nb::numpy, nb::ro>(tensor.data, tensor.shape.rank, dims.data(), owner_of(view),
                                     nullptr, kArrayTypes[static_cast<std::size_t>(spec.dtype)]));
}

nb::object input_bytes(const BatchView& view, std::uint32_t index) {
  const Tensor& tensor = host_input_of(view, index);
  const nb::object array = nb::cast(
      nb::ndarray<nb::numpy, nb::ro, std::uint8_t>(tensor.data, {tensor.bytes}, owner_of(view)));
  PyObject* bytes = PyMemoryView_FromObject(array.ptr());
  if (bytes == nullptr) throw nb::python_error();
  return nb::steal(bytes);
}

std::uintptr_t stream_of(const BatchView& view) {
  const DeviceStream* stream = view.checked().stream();
  return stream == nullptr ? 0 : stream->handle();
}

nb::object output_shape(const BatchView& view, std::uint32_t index) {
  const Tensor& tensor = output_of(view, index).output(index);
  return tensor.data == nullptr ? nb::none() : nb::object(shape_tuple(tensor.shape));
}

void set_output(const BatchView& view, std::uint32_t index, const HostArray& array) {
  Batch& batch = output_of(view, index);
  const TensorSpec& spec = batch.signature().outputs[index];
  const DType dtype = dtype_of(array, spec.dtype);
  if (dtype == DType::kInvalid)
    invalid("output '" + spec.name + "' has an array of a type that KServe does not know");
  if (array.ndim() > kMaxRank)
    invalid("output '" + spec.name + "' has rank " + std::to_string(array.ndim()) + "; at most " +
            std::to_string(kMaxRank) + " is possible");
  std::array<std::int64_t, kMaxRank> dims{};
  for (std::size_t i = 0; i < array.ndim(); ++i) dims[i] = array.shape(i);
  raise_if(batch.set_output(index, dtype, std::span(dims).first(array.ndim()), bytes_of(array)));
}

void set_output_ptr(const BatchView& view, std::uint32_t index, std::uintptr_t ptr,
                    const std::vector<std::int64_t>& shape, const std::string& dtype_name) {
  Batch& batch = output_of(view, index);
  const DType dtype = dtype_from_name(dtype_name);
  if (dtype == DType::kInvalid)
    invalid("output '" + batch.signature().outputs[index].name + "' has the unknown data type '" +
            dtype_name + "'");
  const auto bytes = tensor_bytes(shape, dtype);
  if (!bytes)
    invalid("output '" + batch.signature().outputs[index].name + "' has shape " +
            shape_text(shape) + ", which is no size");
  if (ptr == 0 && *bytes != 0)
    invalid("output '" + batch.signature().outputs[index].name + "' has no address");
  raise_if(batch.set_device_output(index, dtype, shape,
                                   {reinterpret_cast<const std::byte*>(ptr), *bytes}));
}

void set_output_bytes(const BatchView& view, std::uint32_t index, const nb::bytes& data,
                      const std::vector<std::int64_t>& shape) {
  raise_if(output_of(view, index).set_output(index, DType::kBytes, shape, bytes_of(data)));
}

}  // namespace

Batch& BatchView::checked() const {
  if (batch == nullptr)
    raise(Status::Error(Code::kFailedPrecondition, "a batch is valid only during its call"));
  return *batch;
}

// ---- warm-up ---------------------------------------------------------------------------------

WarmBatch::WarmBatch(const Signature& signature, std::uint32_t lane, std::uint32_t bucket,
                     const nb::sequence& inputs,
                     const std::vector<std::vector<std::int64_t>>& shapes,
                     const std::shared_ptr<cuda::CudaDevice>& device)
    : signature_(signature), own_(signature_, lane, stored_) {
  batch = &own_;
  memory = buffers_;
  if (nb::len(inputs) != signature_.inputs.size() || shapes.size() != signature_.inputs.size())
    invalid("a warm-up batch needs " + std::to_string(signature_.inputs.size()) + " inputs");
  if (bucket == 0) invalid("a warm-up batch needs rows");
  for (std::size_t i = 0; i < shapes.size(); ++i)
    check_dims(signature_.inputs[i], shapes[i], signature_.rows_max == 0 ? 0 : bucket);
  own_.reset(bucket, bucket);
  if (device) {
    check_device(*device, signature_, lane);
    lane_ = device->lane(lane);
    reserve_lane(shapes);
  }
  for (std::uint32_t i = 0; i < shapes.size(); ++i) fill_input(i, inputs[i], shapes[i]);
  place_outputs();
}

WarmBatch::~WarmBatch() {
  if (!lane_) return;
  const nb::gil_scoped_release release;
  (void)lane_->finish(own_);  // for its end only: nobody is left to hear of an error
  lane_->end(own_);
}

// As Assembly does: at once what the largest batch of this shape needs, so that the buffer, and
// with it what is captured over it, stays where it is.
void WarmBatch::reserve_lane(const std::vector<std::vector<std::int64_t>>& shapes) {
  const std::uint32_t largest = std::max(signature_.rows_max, own_.bucket());
  const auto bytes = lane_bytes(signature_, largest, [&](std::uint32_t i) {
    std::vector<std::int64_t> dims = shapes[i];
    if (signature_.rows_max != 0) dims[0] = largest;
    return tensor_bytes(dims, signature_.inputs[i].dtype);
  });
  bool grown = false;
  std::shared_ptr<std::byte> buffer;
  raise_if([&] {
    const nb::gil_scoped_release release;
    Status status = lane_->begin(own_);
    if (status.ok() && bytes) buffer = lane_->buffer(*bytes, &grown);
    return status;
  }());
  if (!buffer)
    raise(Status::Error(Code::kResourceExhausted,
                        "no memory for a lane buffer of " +
                            (bytes ? std::to_string(*bytes) : "more than 2^62") + " bytes"));
  lane_buffer_ = buffer.get();
  own_.hold(std::move(buffer));
}

std::byte* WarmBatch::allocate(std::size_t bytes) {
  if (lane_) return lane_buffer_ + layout_.place(bytes);
  auto& buffer = buffers_->emplace_back(bytes + kTensorAlign);
  const auto at = reinterpret_cast<std::uintptr_t>(buffer.data());
  return buffer.data() + (kTensorAlign - at % kTensorAlign) % kTensorAlign;
}

void WarmBatch::fill_input(std::uint32_t index, const nb::object& given,
                           const std::vector<std::int64_t>& dims) {
  const TensorSpec& spec = signature_.inputs[index];
  HostArray array;  // kept until its bytes are copied
  std::span<const std::byte> data;
  if (spec.dtype == DType::kBytes) {
    data = bytes_of(nb::cast<nb::bytes>(given));
  } else {
    array = nb::cast<HostArray>(given);
    data = bytes_of(array);
    if (data.size() != tensor_bytes(dims, spec.dtype))
      invalid("input '" + spec.name + "' does not have the bytes of its shape " + shape_text(dims));
  }
  Tensor& tensor = own_.input_slot(index);
  tensor.data = allocate(data.size());
  tensor.bytes = data.size();
  tensor.shape.rank = static_cast<std::uint32_t>(dims.size());
  std::ranges::copy(dims, tensor.shape.dims.begin());
  if (lane_)
    raise_if(lane_->copy_from_host(tensor.data, data));
  else if (!data.empty())
    std::memcpy(tensor.data, data.data(), data.size());
}

void WarmBatch::place_outputs() {
  for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) {
    const TensorSpec& spec = signature_.outputs[i];
    const auto shape = declared_shape(spec, signature_.rows_max != 0, own_.bucket());
    if (!shape) continue;
    const auto bytes = tensor_bytes(shape->view(), spec.dtype);
    if (!bytes)
      invalid("output '" + spec.name + "' has shape " + shape_text(shape->view()) +
              ", whose size overflows");
    own_.output_slot(i) = {allocate(*bytes), *bytes, *shape};
  }
}

void WarmBatch::finish() {
  if (!lane_) return;
  raise_if([&] {
    const nb::gil_scoped_release release;
    return lane_->finish(own_);
  }());
}

nb::object WarmBatch::output_host(std::uint32_t index) {
  const Tensor& output = output_of(*this, index).output(index);
  const TensorSpec& spec = signature_.outputs[index];
  if (spec.dtype == DType::kBytes) invalid("output '" + spec.name + "' is BYTES");
  finish();
  Stored::Output host{output.shape, {}};
  if (const auto stored = stored_.outputs.find(index); stored != stored_.outputs.end()) {
    host = stored->second;
  } else if (output.data == nullptr) {
    raise(Status::Error(Code::kFailedPrecondition, "output '" + spec.name + "' was not given"));
  } else if (lane_) {
    raise_if(lane_->keep(index, output.shape, {output.data, output.bytes}));
    finish();
    host = std::move(stored_.outputs.extract(index).mapped());
  } else {
    host.data.assign(output.data, output.data + output.bytes);
  }
  auto data = std::make_unique<std::vector<std::byte>>(std::move(host.data));
  std::array<std::size_t, kMaxRank> dims{};
  std::ranges::copy(host.shape.view(), dims.begin());
  void* const at = data->data();
  nb::capsule owner(data.get(),
                    [](void* held) noexcept { delete static_cast<std::vector<std::byte>*>(held); });
  data.release();
  return nb::cast(nb::ndarray<nb::numpy>(at, host.shape.rank, dims.data(), owner, nullptr,
                                         kArrayTypes[static_cast<std::size_t>(spec.dtype)]));
}

void bind_batch(nb::module_& module) {
  nb::class_<BatchView>(module, "Batch")
      .def_prop_ro("rows", [](const BatchView& view) { return view.checked().rows(); })
      .def_prop_ro("bucket", [](const BatchView& view) { return view.checked().bucket(); })
      .def_prop_ro("lane", [](const BatchView& view) { return view.checked().place(); })
      .def_prop_ro("stream", &stream_of)
      .def_prop_ro("on_device",
                   [](const BatchView& view) { return view.checked().stream() != nullptr; })
      .def(
          "input_shape",
          [](const BatchView& view, std::uint32_t index) {
            return shape_tuple(input_of(view, index).shape);
          },
          nb::arg("index"))
      .def("input_array", &input_array, nb::arg("index"))
      .def("input_bytes", &input_bytes, nb::arg("index"))
      .def(
          "input_ptr",
          [](const BatchView& view, std::uint32_t index) {
            return reinterpret_cast<std::uintptr_t>(input_of(view, index).data);
          },
          nb::arg("index"))
      .def("output_shape", &output_shape, nb::arg("index"))
      .def(
          "output_ptr",
          [](const BatchView& view, std::uint32_t index) {
            return reinterpret_cast<std::uintptr_t>(output_of(view, index).output_target(index));
          },
          nb::arg("index"))
      .def("set_output", &set_output, nb::arg("index"), nb::arg("array"))
      .def("set_output_ptr", &set_output_ptr, nb::arg("index"), nb::arg("ptr"), nb::arg("shape"),
           nb::arg("dtype"))
      .def("set_output_bytes", &set_output_bytes, nb::arg("index"), nb::arg("data"),
           nb::arg("shape"));

  nb::class_<WarmBatch, BatchView>(module, "WarmBatch")
      .def(nb::init<const Signature&, std::uint32_t, std::uint32_t, const nb::sequence&,
                    const std::vector<std::vector<std::int64_t>>&,
                    const std::shared_ptr<cuda::CudaDevice>&>(),
           nb::arg("signature"), nb::arg("lane"), nb::arg("bucket"), nb::arg("inputs"),
           nb::arg("shapes"), nb::arg("device").none() = nb::none())
      .def("finish", &WarmBatch::finish)
      .def("output_host", &WarmBatch::output_host, nb::arg("index"));
}

}  // namespace gslice
