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
                   std::uint32_t lane)
    : segment_(segment),
      instance_(instance),
      signature_(signature),
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
    member.status = check_inputs(header, member.rows);
    if (member.status.ok()) member.status = reserve_declared(member);
    (member.status.ok() ? members_ : rejected_).push_back(std::move(member));
    inputs_.resize(members_.size() * signature_.inputs.size());
    outputs_.resize(members_.size() * signature_.outputs.size());
  }
}

// Nothing that a front-end wrote is believed: a wrong length here would reach past the segment.
Status Assembly::check_inputs(const SlotHeader& header, std::uint32_t rows) {
  if (header.input_count != signature_.inputs.size()) return corrupt("its inputs");
  if (batchable() && (rows == 0 || rows > signature_.rows_max)) return corrupt("its rows");
  for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
    const TensorSpec& spec = signature_.inputs[i];
    const TensorRecord record = header.inputs[i];  // one copy: what is checked is what is used
    const auto damaged = [&] { return corrupt("input '" + spec.name + "'"); };
    if (record.rank != spec.dims.size() || record.dtype != spec.dtype) return damaged();
    const bool text = spec.dtype == DType::kBytes;
    std::uint64_t bytes = text ? sizeof(std::uint32_t) : dtype_info(spec.dtype).element_bytes;
    for (std::uint32_t d = 0; d < record.rank; ++d) {
      const std::int64_t dim = record.dims[d];
      const bool fits = dim >= 0 && (spec.dims[d] == -1 || dim == spec.dims[d]);
      if (!fits || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dim), &bytes))
        return damaged();
    }
    if (batchable() && record.dims[0] != rows) return damaged();
    // BYTES: no fewer than the lengths of its elements take.
    if (text ? bytes > record.bytes : bytes != record.bytes) return damaged();
    const auto data = segment_.bytes_at(record.offset, record.bytes);
    if (data.size() != record.bytes) return damaged();
    if (!members_.empty()) {
      const Shape& first = inputs_of(0)[i].shape;
      const std::uint32_t from = batchable() ? 1 : 0;
      if (!std::equal(record.dims.begin() + from, record.dims.begin() + record.rank,
                      first.dims.begin() + from))
        return damaged();
    }
    inputs_.push_back({address(data), data.size(), {record.dims, record.rank}});
  }
  return Status::Ok();
}

Status Assembly::reserve_declared(Member& member) {
  slot(member).output_count = static_cast<std::uint32_t>(signature_.outputs.size());
  for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) {
    const TensorSpec& spec = signature_.outputs[i];
    const DeclaredShape declared = declared_shape(spec, batchable(), member.rows);
    if (!declared.known) {
      outputs_.emplace_back();
      continue;
    }
    const std::uint64_t bytes = declared_bytes(spec, declared.shape);
    const auto placed = place(member, i, declared.shape, bytes);
    if (!placed.ok()) return placed.status();
    outputs_.push_back({placed.value(), bytes, declared.shape});
  }
  return Status::Ok();
}

// Finds room for an output of a request, in the area it has or in an overflow block, and writes
// its record. What was placed before stays where it is.
Result<std::byte*> Assembly::place(Member& member, std::uint32_t output, const Shape& shape,
                                   std::uint64_t bytes) {
  SlotHeader& header = slot(member);
  const auto start = [&] { return align_up(header.output_offset + member.output_used); };
  const auto fits = [&] { return start() + bytes <= header.output_offset + header.output_bytes; };
  if (!fits()) {
    const std::uint64_t area = header.output_offset;
    Status status = segment_.reserve_output(
        member.ticket, instance_, std::max(bytes + kTensorAlign, header.output_bytes + 1));
    if (status.ok() && header.output_offset != area) member.output_used = 0;
    if (status.ok() && !fits()) status = corrupt("its output area");
    if (!status.ok()) {
      status.message = "output '" + signature_.outputs[output].name + "' of " +
                       std::to_string(bytes) + " bytes: " + status.message;
      return status;
    }
  }
  const std::uint64_t offset = start();
  const std::span<std::byte> room = segment_.bytes_at(offset, bytes);
  if (room.size() != bytes) return corrupt("its output area");
  member.output_used = offset + bytes - header.output_offset;
  TensorRecord& record = header.outputs[output];
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
  if (binds_in_place(device)) {
    bind_in_place();
    return Status::Ok();
  }
  // Grown at once to what the largest batch of this shape needs, so that steady state never does.
  const std::uint32_t largest = std::max(signature_.rows_max, batch_.bucket());
  auto buffer = device.buffer(batch_.lane(), buffer_bytes(largest), &buffer_grown_);
  if (buffer == nullptr)
    return Status::Error(
        Code::kResourceExhausted,
        "no memory for a lane buffer of " + std::to_string(buffer_bytes(largest)) + " bytes");
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

// What the tensors of a batch of `bucket` rows take. BYTES tensors: as many as there are now.
std::size_t Assembly::buffer_bytes(std::uint32_t bucket) {
  return lane_bytes(signature_, bucket, [&](std::uint32_t i) {
    std::uint64_t bytes = 0;
    for (std::size_t m = 0; m < members_.size(); ++m) bytes += inputs_of(m)[i].bytes;
    if (signature_.inputs[i].dtype == DType::kBytes) {
      const std::uint64_t row_elements = element_count(inputs_of(0)[i].shape.view(), 1);
      bytes += (bucket - batch_.rows()) * row_elements * sizeof(std::uint32_t);
    } else if (batchable()) {
      bytes = bytes / batch_.rows() * bucket;
    }
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
    const DeclaredShape declared = declared_shape(spec, batchable(), batch_.bucket());
    if (!declared.known) continue;
    const std::size_t bytes = declared_bytes(spec, declared.shape);
    const std::size_t offset = layout.place(bytes);
    batch_.output_slot(i) = {buffer + offset, bytes, declared.shape};
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
  const std::uint64_t padding_rows = batch_.bucket() - batch_.rows();
  if (padding_rows == 0) return offset;
  const DType dtype = signature_.inputs[input].dtype;
  const std::uint64_t element_bytes =
      dtype == DType::kBytes ? sizeof(std::uint32_t) : dtype_info(dtype).element_bytes;
  const Shape& shape = inputs_of(0)[input].shape;
  const std::uint64_t padding = padding_rows * element_count(shape.view(), 1) * element_bytes;
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
  const std::uint64_t row_elements = element_count(shape.view(), batchable() ? 1 : 0);
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
