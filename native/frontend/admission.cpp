#include "frontend/admission.hpp"

#include <algorithm>

#include "base/clock.hpp"
#include "wire/contents.hpp"
#include "wire/text.hpp"

namespace gslice {
namespace {

using wire::Bytes;
using wire::concat;
using wire::InputView;
using wire::quoted;
using wire::Request;

constexpr std::size_t kNone = kMaxTensors;

Status invalid(std::string message) {
  return Status::Error(Code::kInvalidArgument, std::move(message));
}

// By name, trying the position first, because clients send the signature's order.
std::size_t find_tensor(const std::vector<TensorSpec>& tensors, std::string_view name,
                        std::size_t position) {
  if (position < tensors.size() && tensors[position].name == name) return position;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].name == name) return i;
  return kNone;
}

std::string names_text(const std::vector<TensorSpec>& tensors) {
  std::string out;
  for (const TensorSpec& tensor : tensors) {
    if (!out.empty()) out += ", ";
    out += quoted(tensor.name);
  }
  return out.empty() ? "none" : out;
}

// ---- parameters ------------------------------------------------------------------------------

bool is_set(const wire::Parameter* parameter) {
  using Kind = wire::Parameter::Kind;
  if (parameter == nullptr || parameter->kind == Kind::kNone) return false;
  return parameter->kind == Kind::kString ? !parameter->text.empty() : parameter->integer != 0;
}

Status check_parameters(const Request& request, std::int64_t& timeout_us) {
  using Kind = wire::Parameter::Kind;
  if (request.parameters.empty()) return Status::Ok();
  if (is_set(request.parameter("sequence_id")))
    return Status::Error(Code::kUnimplemented,
                         "parameter \"sequence_id\": sequences are not offered; send it without");
  const wire::Parameter* timeout = request.parameter("timeout");
  if (timeout == nullptr) return Status::Ok();
  const bool integer = timeout->kind == Kind::kInt64 || timeout->kind == Kind::kUint64;
  timeout_us = static_cast<std::int64_t>(timeout->integer);
  if (!integer || timeout_us < 0)
    return invalid("parameter \"timeout\" must be a number of microseconds, 0 or more");
  return Status::Ok();
}

// ---- clients' memory -------------------------------------------------------------------------

constexpr std::string_view kInMemory = "shared_memory_";

// A number of bytes among a tensor's parameters; absent: `otherwise`, if that is one.
Status read_bytes(const Request& request, wire::Extent parameters, std::string_view key,
                  std::int64_t otherwise, std::uint64_t& bytes) {
  using Kind = wire::Parameter::Kind;
  const wire::Parameter* parameter = request.parameter(parameters, key);
  const bool integer =
      parameter != nullptr && (parameter->kind == Kind::kInt64 || parameter->kind == Kind::kUint64);
  const auto value = integer ? static_cast<std::int64_t>(parameter->integer) : otherwise;
  if ((parameter != nullptr && !integer) || value < 0)
    return invalid(concat("parameter ", quoted(key), " must be a number of bytes, 0 or more"));
  bytes = static_cast<std::uint64_t>(value);
  return Status::Ok();
}

Status read_area(const Request& request, wire::Extent parameters, const CallersRegions& regions,
                 ClientArea& area) {
  const wire::Parameter* region = request.parameter(parameters, "shared_memory_region");
  if (region == nullptr || region->kind != wire::Parameter::Kind::kString)
    return invalid("parameter \"shared_memory_region\" must name a region");
  area.region = regions.find(region->text);
  if (area.region == nullptr)
    return Status::Error(Code::kNotFound, concat("no region ", quoted(region->text),
                                                 " is registered; register it first"));
  Status status = read_bytes(request, parameters, "shared_memory_byte_size", -1, area.bytes);
  if (status.ok())
    status = read_bytes(request, parameters, "shared_memory_offset", 0, area.offset_bytes);
  return status.ok() ? area.region->check(area.offset_bytes, area.bytes) : status;
}

// Where a tensor lies, if its parameters speak of a client's memory.
Status find_area(const Request& request, wire::Extent parameters, const CallersRegions& regions,
                 const char* kind, std::string_view name, ClientArea& area) {
  area = {};
  if (parameters.count == 0) return Status::Ok();
  const auto all = request.parameters_of(parameters);
  const auto found = std::ranges::find_if(
      all, [](const wire::Parameter& each) { return each.key.starts_with(kInMemory); });
  if (found == all.end()) return Status::Ok();
  if (regions.all == nullptr)
    return Status::Error(
        Code::kUnimplemented,
        concat(kind, " ", quoted(name), " is in a client's shared memory (", quoted(found->key),
               "), which is not offered; send it in the "
               "message, or set node.client_memory"));
  const Status status = read_area(request, parameters, regions, area);
  if (status.ok()) return status;
  return Status::Error(status.code, concat(kind, " ", quoted(name), ": ", status.message));
}

// ---- inputs ----------------------------------------------------------------------------------

Status check_shape(const TensorSpec& spec, const InputView& input, const Signature& signature,
                   std::uint32_t& rows) {
  const auto shape = input.shape();
  const auto expected = [&] {
    return concat("input ", quoted(spec.name), " has shape ", shape_text(shape),
                  input.rank > kMaxRank ? "..." : "", ", expected ", shape_text(spec.dims));
  };
  if (input.rank != spec.dims.size())
    return invalid(concat(expected(), ": rank ", input.rank, ", not ", spec.dims.size()));
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) return invalid(concat(expected(), ": dimension ", i, " is negative"));
    if (spec.dims[i] >= 0 && shape[i] != spec.dims[i])
      return invalid(concat(expected(), " (-1: any length)"));
  }
  if (signature.rows_max == 0) return Status::Ok();
  if (shape[0] == 0 || shape[0] > signature.rows_max)
    return invalid(concat(expected(), " with 1 to ", signature.rows_max, " rows"));
  if (rows != 0 && rows != static_cast<std::uint64_t>(shape[0]))
    return invalid(concat("input ", quoted(spec.name), " has ", shape[0],
                          " rows, but an input before it has ", rows,
                          "; all inputs need the same number"));
  rows = static_cast<std::uint32_t>(shape[0]);
  return Status::Ok();
}

}  // namespace

// Walks BYTES elements: each a 4-byte little-endian length and as many bytes.
Status check_elements(std::string_view name, Bytes data, std::uint64_t expected) {
  wire::Reader reader(data);
  std::uint64_t elements = 0;
  for (; !reader.at_end(); ++elements) {
    std::uint32_t length = 0;
    if (!reader.fixed(length) || !reader.advance(length))
      return invalid(concat("input ", quoted(name), ": BYTES element ", elements,
                            " is cut off; its 4-byte length and data pass the tensor's ",
                            data.size(), " bytes"));
  }
  if (elements != expected)
    return invalid(concat("input ", quoted(name), " has ", elements, " BYTES elements, expected ",
                          expected, " by its shape"));
  return Status::Ok();
}

namespace {

Status check_data(const TensorSpec& spec, const Request& request, AdmittedInput& input) {
  const auto shape = input.view->shape();
  const auto bytes = tensor_bytes(shape, spec.dtype);
  if (!bytes)
    return invalid(concat("input ", quoted(spec.name), " has shape ", shape_text(shape),
                          ", whose size overflows"));
  const std::uint64_t elements = *element_count(shape);
  if (input.typed) {
    const auto size = wire::check_contents(request, *input.view, spec.dtype);
    if (!size.ok()) return size.status();
    if (size.value().elements != elements)
      return invalid(concat("input ", quoted(spec.name), " has ", size.value().elements,
                            " elements in its contents, expected ", elements, " by its shape ",
                            shape_text(shape)));
    input.bytes = size.value().bytes;
    return Status::Ok();
  }
  const std::uint64_t came = input.area.region ? input.area.bytes : input.raw.size();
  if (spec.dtype == DType::kBytes) {
    input.bytes = came;
    return input.area.region ? Status::Ok() : check_elements(spec.name, input.raw, elements);
  }
  input.bytes = *bytes;
  if (came != input.bytes)
    return invalid(concat("input ", quoted(spec.name), " has ", came, " bytes, expected ",
                          input.bytes, " for ", dtype_info(spec.dtype).name, " ",
                          shape_text(shape)));
  return Status::Ok();
}

// What is in a client's memory takes no raw entry; the other inputs come all in one way.
Status check_transport(const Request& request) {
  std::size_t sent = request.inputs.size();
  if (!request.tensor_parameters.empty())
    for (const InputView& input : request.inputs)
      sent -= request.parameter(input.parameters, "shared_memory_region") == nullptr ? 0 : 1;
  if (request.raw_inputs.empty() || request.raw_inputs.size() == sent) return Status::Ok();
  return invalid(concat("the request has ", request.raw_inputs.size(),
                        " raw_input_contents for its ", sent,
                        " inputs, expected one each, or none with typed contents"));
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ hash >> 29;
}

std::uint64_t shape_key(const Signature& signature, const Admission& admission) {
  std::uint64_t key = 0;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    key = mix(key, static_cast<std::uint64_t>(signature.inputs[i].dtype));
    const auto shape = admission.inputs[i].view->shape();
    for (const std::int64_t dim : shape.subspan(signature.rows_max == 0 ? 0 : 1))
      key = mix(key, static_cast<std::uint64_t>(dim));
  }
  return key;
}

// `next_raw`: of the inputs before this one so many came raw.
Status admit_input(const Signature& signature, const Request& request, std::size_t position,
                   const CallersRegions& regions, std::size_t& next_raw, Admission& admission) {
  const InputView& view = request.inputs[position];
  const std::size_t index = find_tensor(signature.inputs, view.name, position);
  if (index == kNone)
    return invalid(concat("there is no input ", quoted(view.name), "; the inputs are ",
                          names_text(signature.inputs)));
  AdmittedInput& input = admission.inputs[index];
  if (input.view != nullptr) return invalid(concat("input ", quoted(view.name), " came twice"));

  const TensorSpec& spec = signature.inputs[index];
  ClientArea area;
  if (Status status = find_area(request, view.parameters, regions, "input", view.name, area);
      !status.ok())
    return status;
  const bool sent = area.region == nullptr;
  const bool raw = !request.raw_inputs.empty();
  input = {&view, {}, area, sent && !raw, 0, 0};
  if (sent && raw) input.raw = request.raw_inputs[next_raw++];
  if (view.datatype != dtype_info(spec.dtype).name)
    return invalid(concat("input ", quoted(view.name), " is ", quoted(view.datatype), ", expected ",
                          dtype_info(spec.dtype).name));
  if (!input.typed && view.contents.present())
    return invalid(concat("input ", quoted(view.name), " has contents and ",
                          sent ? "the request has raw_input_contents" : "a region", "; send one"));
  Status status = check_shape(spec, view, signature, admission.rows);
  return status.ok() ? check_data(spec, request, input) : status;
}

// ---- outputs ---------------------------------------------------------------------------------

Status choose_outputs(const Signature& signature, const Request& request,
                      const CallersRegions& regions, Admission& admission) {
  OutputChoice& choice = admission.outputs;
  choice.count = admission.area_count = 0;
  if (request.outputs.empty()) {
    for (std::size_t i = 0; i < signature.outputs.size(); ++i)
      choice.index[choice.count++] = static_cast<std::uint8_t>(i);
    return Status::Ok();
  }
  for (std::size_t i = 0; i < request.outputs.size(); ++i) {
    const wire::RequestedOutputView& output = request.outputs[i];
    const std::size_t index = find_tensor(signature.outputs, output.name, i);
    if (index == kNone)
      return invalid(concat("there is no output ", quoted(output.name), "; the outputs are ",
                            names_text(signature.outputs)));
    const auto chosen = std::span(choice.index).first(choice.count);
    if (std::ranges::find(chosen, index) != chosen.end())
      return invalid(concat("output ", quoted(output.name), " is requested twice"));
    ClientArea area;
    Status status = find_area(request, output.parameters, regions, "output", output.name, area);
    if (!status.ok()) return status;
    if (area.region != nullptr) admission.areas[admission.area_count++] = {choice.count, area};
    if (is_set(request.parameter(output.parameters, "classification")))
      return Status::Error(Code::kUnimplemented,
                           concat("output ", quoted(output.name),
                                  ": classification is not offered; ask for the tensor"));
    choice.index[choice.count++] = static_cast<std::uint8_t>(index);
  }
  return Status::Ok();
}

Status sum_sizes(const Signature& signature, Admission& admission) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 62;  // of one tensor, so that sums fit
  admission.input_bytes = admission.output_bytes = 0;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    AdmittedInput& input = admission.inputs[i];
    input.offset = admission.input_bytes;
    admission.input_bytes += align_up(input.bytes);  // sent in full, or of a region: sums fit
  }
  for (const TensorSpec& output : signature.outputs) {
    const auto shape = declared_shape(output, signature.rows_max != 0, admission.rows);
    if (!shape) continue;
    const auto bytes = tensor_bytes(shape->view(), output.dtype);
    if (!bytes || *bytes >= kMost / kMaxTensors)
      return Status::Error(Code::kResourceExhausted,
                           concat("output ", quoted(output.name), " with ", admission.rows,
                                  " rows is larger than any memory"));
    admission.output_bytes += align_up(*bytes);
  }
  return Status::Ok();
}

// Before anything runs, as far as sizes are known; after `sum_sizes`, so they are sound.
Status check_areas(const Signature& signature, const Admission& admission) {
  for (const OutputArea& each : std::span(admission.areas).first(admission.area_count)) {
    const TensorSpec& output = signature.outputs[admission.outputs.index[each.position]];
    const auto shape = declared_shape(output, signature.rows_max != 0, admission.rows);
    if (!shape) continue;
    const std::uint64_t bytes = *tensor_bytes(shape->view(), output.dtype);
    if (bytes > each.area.bytes) return too_small(output.name, bytes, each.area);
  }
  return Status::Ok();
}

}  // namespace

Status too_small(std::string_view output, std::uint64_t bytes, const ClientArea& area) {
  return invalid(concat("output ", quoted(output), " takes ", bytes, " bytes, its place in region ",
                        quoted(area.region->name()), " has ", area.bytes));
}

Status admit(const Signature& signature, const Request& request, const CallersRegions& regions,
             Admission& admission) {
  admission.rows = 0;
  admission.timeout_us = 0;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) admission.inputs[i].view = nullptr;

  if (request.id.size() > kIdBytesMax)
    return invalid(concat("the request's id has ", request.id.size(), " bytes; at most ",
                          kIdBytesMax, " are taken"));
  if (Status status = check_parameters(request, admission.timeout_us); !status.ok()) return status;
  if (Status status = check_transport(request); !status.ok()) return status;
  std::size_t next_raw = 0;
  for (std::size_t i = 0; i < request.inputs.size(); ++i)
    if (Status status = admit_input(signature, request, i, regions, next_raw, admission);
        !status.ok())
      return status;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i)
    if (admission.inputs[i].view == nullptr)
      return invalid(concat("input ", quoted(signature.inputs[i].name),
                            " is missing; the inputs are ", names_text(signature.inputs)));
  if (Status status = choose_outputs(signature, request, regions, admission); !status.ok())
    return status;
  admission.shape_key = shape_key(signature, admission);
  if (Status status = sum_sizes(signature, admission); !status.ok()) return status;
  return check_areas(signature, admission);
}

bool expect_raw_inputs(const Signature& signature, Request& request) {
  if (!request.raw_inputs.empty()) return false;
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const InputView& view = request.inputs[i];
    const std::size_t index = find_tensor(signature.inputs, view.name, i);
    if (index == kNone || view.contents.present() || view.parameters.count != 0) return false;
    const DType dtype = signature.inputs[index].dtype;
    const auto bytes = tensor_bytes(view.shape(), dtype);
    if (!bytes || dtype == DType::kBytes) return false;
    request.raw_inputs.emplace_back(static_cast<const std::byte*>(nullptr), *bytes);
  }
  return !request.raw_inputs.empty();
}

std::int64_t predicted_finish_ns(const Load& load, std::uint32_t rows, std::int64_t now) {
  if (load.batch_estimate_ns <= 0) return now;
  const auto ahead = static_cast<std::uint64_t>(std::max<std::int64_t>(load.queued_rows, 0));
  const std::uint64_t batch_rows = std::max(load.batch_rows, 1u);
  const std::uint64_t batches = (ahead + std::max(rows, 1u) + batch_rows - 1) / batch_rows;
  const std::uint64_t instances = std::max(load.instances, 1u);
  const std::uint64_t turns = (batches + instances - 1) / instances;
  std::int64_t wait_ns = 0;
  std::int64_t finish_ns = 0;
  if (__builtin_mul_overflow(turns, load.batch_estimate_ns, &wait_ns) ||
      __builtin_add_overflow(now, wait_ns, &finish_ns))
    return kNever;
  return finish_ns;
}

}  // namespace gslice
