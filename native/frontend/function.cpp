#include "frontend/function.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "wire/contents.hpp"
#include "wire/text.hpp"

namespace gslice {
namespace {

using wire::concat;
using wire::quoted;

// With no promise to keep, requests age as if this were it, so that deadlines do not starve them.
constexpr std::int64_t kAgeingNs = 1'000'000'000;

std::int64_t add_or_never(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kNever : sum;
}

std::string milliseconds(std::int64_t ns) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3f ms", static_cast<double>(ns) / 1e6);
  return text.data();
}

}  // namespace

Function::Function(std::uint32_t index, std::string name, std::string version,
                   std::shared_ptr<Segment> segment, Signature signature, std::int64_t slo_ns)
    : index_(index),
      name_(std::move(name)),
      version_(std::move(version)),
      segment_(std::move(segment)),
      signature_(std::move(signature)),
      slo_ns_(slo_ns),
      pending_(segment_->slot_count()) {}

bool Function::is_same(std::string_view name, Segment& segment) {
  return name == name_ && segment.header().generation == segment_->header().generation;
}

void Function::renew(std::string version, std::int64_t slo_ns) {
  version_ = std::move(version);
  slo_ns_ = slo_ns;
}

Status Function::named(const Status& status) const {
  return {status.code, concat("function ", quoted(name_), ": ", status.message),
          status.retry_after_ms};
}

void Function::count(Outcome outcome) {
  segment_->header().stats.outcome[static_cast<std::size_t>(outcome)].add_relaxed(1);
}

void Function::count_copies(std::uint64_t copies, std::uint64_t bytes) {
  segment_->header().stats.copies.add_relaxed(copies);
  segment_->header().stats.copied_bytes.add_relaxed(bytes);
}

// ---- checks ----------------------------------------------------------------------------------

Status Function::check_version(std::string_view version) const {
  if (version.empty() || version == version_) return Status::Ok();
  return Status::Error(Code::kNotFound,
                       concat("no version ", quoted(version), ", only ", quoted(version_)));
}

Status Function::check_size(const Admission& admission) const {
  const std::uint64_t needed = admission.input_bytes + admission.output_bytes;
  const std::uint64_t largest = segment_->largest_payload_bytes();
  if (needed <= largest) return Status::Ok();
  return Status::Error(Code::kResourceExhausted,
                       concat("the request needs ", needed, " bytes (", admission.input_bytes,
                              " in, ", admission.output_bytes, " out), the largest slot has ",
                              largest, "; send fewer rows or raise the function's request_max"));
}

namespace {

// Why a request is not let in: its own deadline, or the promise of a function that sheds.
Status too_late(std::int64_t finish_in_ns, std::int64_t deadline_in_ns, std::int64_t within_ns,
                std::int64_t queued_rows) {
  const std::string predicted = concat("the answer is predicted in ", milliseconds(finish_in_ns));
  const std::string queued = concat("; ", queued_rows, " rows are queued");
  if (within_ns > 0)
    return Status::Error(Code::kResourceExhausted,
                         concat("overload: ", predicted, " behind the batch under way, not within ",
                                milliseconds(within_ns), queued));
  return Status::Error(Code::kDeadlineExceeded, concat(predicted, ", after the deadline in ",
                                                       milliseconds(deadline_in_ns), queued));
}

}  // namespace

Status Function::check_deadline(std::uint32_t rows, std::int64_t deadline_ns, std::int64_t now) {
  SegmentHeader& header = segment_->header();
  const std::int64_t within_ns = header.admit_within_ns.load_relaxed();
  if (deadline_ns == kNever && within_ns <= 0) return Status::Ok();
  if (deadline_ns <= now)
    return Status::Error(Code::kDeadlineExceeded,
                         concat("the deadline passed ", milliseconds(now - deadline_ns),
                                " before the request could be queued"));
  const std::uint32_t limit = header.batch_rows_max.load_relaxed();
  Load load{header.batch_estimate_ns.load_relaxed(), header.queued_rows.load_relaxed(),
            limit == 0 ? signature_.rows_max : std::min(limit, signature_.rows_max), 1};
  // With nothing ahead of it a request is let in whatever the estimate says: only batches that run
  // correct it, so turning all away by a wrong one would make it last for ever.
  if (load.queued_rows <= 0) return Status::Ok();
  // Whoever sheds is overloaded: a batch is under way, and all of it is counted.
  const std::int64_t promised_ns =
      within_ns > 0
          ? add_or_never(now, std::max<std::int64_t>(within_ns - load.batch_estimate_ns, 0))
          : kNever;
  const std::int64_t until_ns = std::min(deadline_ns, promised_ns);
  if (predicted_finish_ns(load, rows, now) <= until_ns) return Status::Ok();
  load.instances = pulling_instances();  // touches each instance's line, so only when it matters
  const std::int64_t finish_ns = predicted_finish_ns(load, rows, now);
  if (finish_ns <= until_ns) return Status::Ok();
  return too_late(finish_ns - now, deadline_ns - now, finish_ns > deadline_ns ? 0 : within_ns,
                  load.queued_rows);
}

std::uint32_t Function::pulling_instances() {
  const auto& instances = segment_->header().instances;
  return static_cast<std::uint32_t>(std::ranges::count_if(
      instances, [](const InstanceEntry& each) { return each.may_pull.load_relaxed() != 0; }));
}

std::int64_t Function::due_ns(std::int64_t deadline_ns, std::int64_t now) const {
  return std::min(deadline_ns, add_or_never(now, slo_ns_ > 0 ? slo_ns_ : kAgeingNs));
}

// ---- the way in ------------------------------------------------------------------------------

Status Function::fill(Ticket ticket, const wire::Request& request, const Admission& admission,
                      std::int64_t deadline_ns, std::int64_t now) {
  SlotHeader& slot = segment_->slot(ticket.slot);
  const std::uint64_t payload_offset = slot.payload_offset;
  const std::uint64_t payload_bytes = slot.payload_bytes;
  const auto payload = segment_->bytes_at(payload_offset, payload_bytes);
  if (payload.size() < admission.input_bytes)
    return Status::Error(Code::kInternal,
                         concat("slot ", ticket.slot, " lies outside its segment"));

  slot.rows = admission.rows;
  slot.shape_key = admission.shape_key;
  slot.deadline_ns = deadline_ns;
  slot.due_ns = due_ns(deadline_ns, now);
  slot.input_count = static_cast<std::uint32_t>(signature_.inputs.size());
  slot.output_offset = payload_offset + admission.input_bytes;
  slot.output_bytes = payload_bytes - admission.input_bytes;

  std::uint64_t copied_bytes = 0;
  for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
    const AdmittedInput& input = admission.inputs[i];
    TensorRecord& record = slot.inputs[i];
    record.offset = payload_offset + input.offset;
    record.bytes = input.bytes;
    record.dtype = signature_.inputs[i].dtype;
    record.rank = input.view->rank;
    std::ranges::copy(input.view->shape(), record.dims.begin());
    const auto target = payload.subspan(input.offset, input.bytes);
    if (input.typed)
      wire::write_contents(request, *input.view, record.dtype, target);
    else if (input.area.region != nullptr) {
      if (Status status = read_input(input, signature_.inputs[i], target); !status.ok())
        return status;
    } else if (input.raw.data() != nullptr)
      std::memcpy(target.data(), input.raw.data(), input.raw.size());
    copied_bytes += input.bytes;
  }
  count_copies(signature_.inputs.size(), copied_bytes);
  return Status::Ok();
}

Status Function::read_input(const AdmittedInput& input, const TensorSpec& spec,
                            std::span<std::byte> target) const {
  Status status = input.area.region->read(input.area.offset_bytes, target);
  if (!status.ok())
    return Status::Error(status.code, concat("input ", quoted(spec.name), ": ", status.message));
  if (spec.dtype != DType::kBytes) return status;
  return check_elements(spec.name, target, *element_count(input.view->shape()));
}

// ---- the way out -----------------------------------------------------------------------------

Status Function::read_output(const SlotHeader& slot, std::size_t index, wire::OutputView& output,
                             std::array<std::int64_t, kMaxRank>& dims) {
  const TensorSpec& spec = signature_.outputs[index];
  const TensorRecord record = read_once(slot.outputs[index]);
  const auto wrong = [&](const char* what) {
    return Status::Error(Code::kInternal,
                         concat("output ", quoted(spec.name), " came from the worker with ", what));
  };
  if (record.dtype != spec.dtype) return wrong("another data type than its signature");
  if (record.rank > kMaxRank) return wrong("an impossible rank");
  const auto bytes = tensor_bytes(std::span(record.dims).first(record.rank), spec.dtype);
  if (!bytes) return wrong("an impossible shape");
  if (spec.dtype == DType::kBytes ? record.bytes < *bytes : record.bytes != *bytes)
    return wrong("a size that is not its shape's");
  const auto data = segment_->bytes_at(record.offset, record.bytes);
  if (data.size() != record.bytes) return wrong("data outside its segment");
  dims = record.dims;
  output = {spec.name, dtype_info(spec.dtype).name, {dims.data(), record.rank}, data};
  return Status::Ok();
}

Status Function::read_answer(Ticket ticket, bool stream, Answer& answer) {
  const SlotHeader& slot = segment_->slot(ticket.slot);
  const Pending& request = pending_[ticket.slot];
  if (const auto code = static_cast<Code>(read_once(slot.code)); code != Code::kOk) {
    const std::size_t length = std::min<std::size_t>(read_once(slot.message_bytes), kMessageBytes);
    const std::string message(slot.message.data(), length);
    return Status::Error(code, wire::is_utf8(message) ? message : quoted(message));
  }
  if (slot.output_count != signature_.outputs.size())
    return Status::Error(Code::kInternal, concat("the worker gave ", slot.output_count,
                                                 " outputs, expected ", signature_.outputs.size()));
  answer.data_bytes = 0;
  for (std::size_t i = 0; i < request.outputs.count; ++i) {
    Status status = read_output(slot, request.outputs.index[i], answer.outputs[i], answer.dims[i]);
    if (!status.ok()) return status;
    answer.data_bytes += answer.outputs[i].data.size();
  }
  answer.response = {name_, version_, request.id,
                     std::span(answer.outputs).first(request.outputs.count), stream};
  return place_outputs(request, answer);
}

Status Function::place_outputs(const Pending& request, Answer& answer) const {
  for (const OutputPlace& place : request.places) {
    const wire::OutputView& output = answer.outputs[place.output.position];
    if (output.data.size() > place.output.area.bytes)
      return too_small(output.name, output.data.size(), place.output.area);
  }
  for (const OutputPlace& place : request.places) {
    wire::OutputView& output = answer.outputs[place.output.position];
    const ClientArea& area = place.output.area;
    if (Status status = place.region->write(area.offset_bytes, output.data); !status.ok())
      return Status::Error(status.code,
                           concat("output ", quoted(output.name), ": ", status.message));
    output.place = {place.region->name(), area.offset_bytes, output.data.size()};
    output.data = {};
  }
  return Status::Ok();
}

}  // namespace gslice
