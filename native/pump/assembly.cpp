#include "pump/assembly.hpp"

#include <algorithm>
#include <cstring>

#include "pump/lane_layout.hpp"

namespace gslice {
namespace {

// What tensors without any bytes point at: engines take null for "not known".
alignas(kTensorAlign) std::byte nothing[kTensorAlign];

std::byte* address(std::span<std::byte> bytes) { return bytes.empty() ? nothing : bytes.data(); }

Status corrupt(const std::string& what) {
  return Status::Error(Code::kInternal, "the slot's record of " + what + " is damaged");
}

}  // namespace

Assembly::Assembly(Segment& segment, std::uint16_t instance, const Signature& signature,
                   std::uint32_t lane, bool in_place)
    : segment_(segment),
      instance_(instance),
      signature_(signature),
      in_place_(in_place),
      batch_(signature, lane, *this) {}

// ---- taking over -----------------------------------------------------------------------------

void Assembly::take(std::span<const Ticket> tickets) {
  members_.clear();
  rejected_.clear();
  inputs_.clear();
  outputs_.clear();
  gather_.clear();
  scatter_.clear();
  stored_ = {};
  buffer_grown_ = false;
  for (const Ticket ticket : tickets) {
    SlotHeader& header = segment_.slot(ticket.slot);
    Member member;
    member.ticket = ticket;
    member.rows = batchable() ? std::uint32_t{header.rows} : 1;
    member.leased_ns = header.leased_ns;
    member.queued_ns = header.queued_ns;
    member.claimed_ns = header.claimed_ns;
    member.status = check_inputs(header, member);
    if (member.status.ok()) member.status = find_output_area(member);
    if (member.status.ok()) member.status = reserve_declared(member);
    (member.status.ok() ? members_ : rejected_).push_back(std::move(member));
    inputs_.resize(members_.size() * signature_.inputs.size());
    outputs_.resize(members_.size() * signature_.outputs.size());
  }
}

// Nothing that a front-end wrote is believed: a wrong length here would reach into another's
// request, or past the segment.
Status Assembly::check_inputs(SlotHeader& header, const Member& member) {
  if (header.input_count != signature_.inputs.size()) return corrupt("its inputs");
  if (batchable() && (member.rows == 0 || member.rows > signature_.rows_max))
    return corrupt("its rows");
  for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
    const TensorSpec& spec = signature_.inputs[i];
    const TensorRecord record = read_once(header.inputs[i]);
    const auto data = segment_.payload_at(member.ticket.slot, record.offset, record.bytes);
    if (!fits(record, i, member.rows) || data.size() != record.bytes)
      return corrupt("input '" + spec.name + "'");
    inputs_.push_back({address(data), data.size(), {record.dims, record.rank}});
    if (in_place_) header.outputs[i] = record;
  }
  return Status::Ok();
}

// Whether the record is of a tensor that the signature allows, in a batch with the first member.
bool Assembly::fits(const TensorRecord& record, std::size_t input, std::uint32_t rows) const {
  const TensorSpec& spec = signature_.inputs[input];
  if (record.rank != spec.dims.size() || record.dtype != spec.dtype) return false;
  const auto dims = std::span(record.dims).first(record.rank);
  for (std::size_t d = 0; d < dims.size(); ++d)
    if (spec.dims[d] != -1 && dims[d] != spec.dims[d]) return false;
  const std::size_t from = batchable() ? 1 : 0;
  if (batchable() && dims[0] != rows) return false;
  if (!members_.empty() &&
      !std::ranges::equal(dims.subspan(from), inputs_of(0)[input].shape.view().subspan(from)))
    return false;
  const auto bytes = tensor_bytes(dims, spec.dtype);
  if (!bytes) return false;
  return spec.dtype == DType::kBytes ? *bytes <= record.bytes : *bytes == record.bytes;
}

Status Assembly::find_output_area(Member& member) const {
  const auto area = segment_.output_area(member.ticket.slot);
  if (!area) return corrupt("its output area");
  if (area->offset != member.output.offset) member.output_used = 0;
  member.output = *area;
  return Status::Ok();
}

Status Assembly::reserve_declared(Member& member) {
  segment_.slot(member.ticket.slot).output_count =
      static_cast<std::uint32_t>(signature_.outputs.size());
  if (in_place_) return Status::Ok();
  for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) {
    const TensorSpec& spec = signature_.outputs[i];
    const auto shape = declared_shape(spec, batchable(), member.rows);
    if (!shape) {
      outputs_.emplace_back();
      continue;
    }
    const auto bytes = tensor_bytes(shape->view(), spec.dtype);
    if (!bytes) return corrupt("its rows");  // a front-end admits no output that no memory holds
    const auto placed = place(member, i, *shape, *bytes);
    if (!placed.ok()) return placed.status();
    outputs_.push_back({placed.value(), *bytes, *shape});
  }
  return Status::Ok();
}

// Finds room for an output of a request, in the area it has or in an overflow block, and writes
// its record. What was placed before stays where it is.
Result<std::byte*> Assembly::place(Member& member, std::uint32_t output, const Shape& shape,
                                   std::uint64_t bytes) {
  const auto start = [&] { return align_up(member.output.offset + member.output_used); };
  if (!member.output.holds(start(), bytes)) {
    Status status = segment_.reserve_output(
        member.ticket, instance_, std::max(bytes + kTensorAlign, member.output.bytes + 1));
    if (status.ok()) status = find_output_area(member);
    if (status.ok() && !member.output.holds(start(), bytes)) status = corrupt("its output area");
    if (!status.ok()) {
      status.message = "output '" + signature_.outputs[output].name + "' of " +
                       std::to_string(bytes) + " bytes: " + status.message;
      return status;
    }
  }
  const std::uint64_t offset = start();
  const std::span<std::byte> room = segment_.bytes_at(offset, bytes);
  member.output_used = offset + bytes - member.output.offset;
  TensorRecord& record = segment_.slot(member.ticket.slot).outputs[output];
  record.offset = offset;
  record.bytes = bytes;
  record.dims = shape.dims;
  record.rank = shape.rank;
  record.dtype = signature_.outputs[output].dtype;
  return address(room);
}

// ---- layout ----------------------------------------------------------------------------------

Status Assembly::lay_out(DeviceTable& device) {
  std::uint32_t rows = 0;
  for (const Member& member : members_) rows += member.rows;
  batch_.reset(rows, choose_bucket(rows));
  if (in_place_) return Status::Ok();
  if (binds_in_place(device)) {
    bind_in_place();
    return Status::Ok();
  }
  // Grown at once to what the largest batch of this shape needs, so that steady state never does.
  const auto bytes = buffer_bytes(std::max(signature_.rows_max, batch_.bucket()));
  auto buffer = bytes ? device.buffer(batch_.lane(), *bytes, &buffer_grown_) : nullptr;
  if (buffer == nullptr)
    return Status::Error(Code::kResourceExhausted,
                         "no memory for a lane buffer of " +
                             (bytes ? std::to_string(*bytes) : "more than 2^62") + " bytes");
  bind_buffer(buffer.get());
  batch_.hold(std::move(buffer));
  return Status::Ok();
}

std::uint32_t Assembly::choose_bucket(std::uint32_t rows) const {
  if (!batchable()) return 1;
  const auto bucket = std::ranges::lower_bound(signature_.buckets, rows);
  return bucket == signature_.buckets.end() ? rows : *bucket;
}

bool Assembly::binds_in_place(const DeviceTable& device) {
  if (!device.binds_slots() || members_.size() != 1 || batch_.rows() != batch_.bucket())
    return false;
  return std::ranges::all_of(inputs_, [](const Tensor& input) {
    return reinterpret_cast<std::uintptr_t>(input.data) % kTensorAlign == 0;
  });
}

void Assembly::bind_in_place() {
  for (std::uint32_t i = 0; i < signature_.inputs.size(); ++i) batch_.input_slot(i) = inputs_[i];
  for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) batch_.output_slot(i) = outputs_[i];
}

// Of one row of an input, by the first member. BYTES tensors: of its elements' lengths.
std::uint64_t Assembly::row_bytes(std::uint32_t input) const {
  const Shape& shape = inputs_of(0)[input].shape;
  return *tensor_bytes(shape.view(), signature_.inputs[input].dtype) / members_[0].rows;
}

// What the tensors of a batch of `bucket` rows take; nothing if that is more than any memory. BYTES
// tensors: as they are now, and no text in the rows that are added.
std::optional<std::size_t> Assembly::buffer_bytes(std::uint32_t bucket) const {
  return lane_bytes(signature_, bucket, [&](std::uint32_t i) -> std::optional<std::uint64_t> {
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(bucket - batch_.rows(), row_bytes(i), &bytes) || bytes > kMostBytes)
      return std::nullopt;
    for (std::size_t m = 0; m < members_.size(); ++m) bytes += inputs_of(m)[i].bytes;
    return bytes;
  });
}

void Assembly::bind_buffer(std::byte* buffer) {
  LaneLayout layout;
  for (std::uint32_t i = 0; i < signature_.inputs.size(); ++i) {
    const std::size_t offset = layout.next();
    const std::size_t bytes = list_gather(i, offset) - offset;
    Shape shape = inputs_of(0)[i].shape;
    if (batchable()) shape.dims[0] = batch_.bucket();
    batch_.input_slot(i) = {buffer + layout.place(bytes), bytes, shape};
  }
  for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) {
    const TensorSpec& spec = signature_.outputs[i];
    const auto shape = declared_shape(spec, batchable(), batch_.bucket());
    if (!shape) continue;
    const std::size_t bytes = *tensor_bytes(shape->view(), spec.dtype);
    const std::size_t offset = layout.place(bytes);
    batch_.output_slot(i) = {buffer + offset, bytes, *shape};
    list_scatter(i, offset);
  }
}

// Lists the copies of one input, and zeros for the padding: for numbers rows of 0, for BYTES empty
// elements. Returns where it ends.
std::size_t Assembly::list_gather(std::uint32_t input, std::size_t offset) {
  for (std::size_t m = 0; m < members_.size(); ++m) {
    const Tensor& tensor = inputs_of(m)[input];
    gather_.push_back({tensor.data, offset, tensor.bytes});
    offset += tensor.bytes;
  }
  const std::uint64_t padding = (batch_.bucket() - batch_.rows()) * row_bytes(input);
  if (padding == 0) return offset;
  gather_.push_back({nullptr, offset, padding});
  return offset + padding;
}

void Assembly::list_scatter(std::uint32_t output, std::size_t offset) {
  for (std::size_t m = 0; m < members_.size(); ++m) {
    const Tensor& tensor = outputs_of(m)[output];
    scatter_.push_back({tensor.data, offset, tensor.bytes});
    offset += tensor.bytes;
  }
}

// ---- outputs of unknown shape ------------------------------------------------------------------

// Runs on the lane's thread while the batch does: hands each request its rows at once.
Status Assembly::store(std::uint32_t output, const Shape& shape, std::span<const std::byte> data) {
  const bool text = signature_.outputs[output].dtype == DType::kBytes;
  const std::uint64_t row_elements = *element_count(shape.view()) / batch_.bucket();
  const std::uint64_t row_bytes = data.size() / batch_.bucket();
  for (Member& member : members_) {
    std::size_t bytes = member.rows * row_bytes;
    if (text) {
      const auto taken = serialised_bytes(data, member.rows * row_elements);
      if (!taken.ok()) return taken.status();
      bytes = taken.value();
    }
    const auto part = data.first(bytes);
    data = data.subspan(bytes);
    if (!member.status.ok()) continue;
    Shape own = shape;
    if (batchable()) own.dims[0] = member.rows;
    auto placed = place(member, output, own, bytes);
    if (!placed.ok()) {
      member.status = placed.status();
      continue;
    }
    if (!part.empty()) std::memcpy(placed.value(), part.data(), bytes);
    ++stored_.copies;
    stored_.bytes += bytes;
  }
  return Status::Ok();
}

Assembly::Traffic Assembly::traffic() const {
  Traffic traffic{stored_.copies + batch_.copies(), stored_.bytes + batch_.copied_bytes()};
  for (const std::span<const Copy> list : {gather(), scatter()})
    for (const Copy& copy : list) {
      traffic.copies += copy.slot != nullptr;
      traffic.bytes += copy.slot != nullptr ? copy.bytes : 0;
    }
  return traffic;
}

}  // namespace gslice
