// A function served end to end inside one test process: a segment, a front-end, and a consumer
// that echoes input i to output i as a pump would.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "frontend/frontend.hpp"
#include "proto_builder.hpp"
#include "segment/segment.hpp"
#include "tensor_spec.hpp"

namespace gslice::test {

template <typename T>
bool failed(const Result<T>& result, Code code, std::string_view words) {
  return !result.ok() && result.status().code == code &&
         result.status().message.find(words) != std::string::npos;
}

// The value by value: Result's own accessors refer into what is often a temporary.
template <typename T>
T ok(Result<T> result) {
  if (!result.ok()) check::fail(__FILE__, __LINE__, result.status().message);
  return result.take();
}

inline std::uint32_t free_slots(Segment& segment) { return segment.count_states()[0]; }

// x FP32 [-1, 4] -> y FP32 [-1, 4], batches of up to 8 rows
inline Signature echo_signature() {
  return {{tensor("x", DType::kFp32, {-1, 4})}, {tensor("y", DType::kFp32, {-1, 4})}, 8, {}};
}

// A request to "echo" for `rows` rows of x.
inline Proto echo_request(std::int64_t rows, std::string_view id = "") {
  Proto message;
  message.text(1, "echo");
  if (!id.empty()) message.text(3, id);
  return message.message(5, input("x", "FP32", {rows, 4}))
      .text(7, std::string(static_cast<std::size_t>(rows) * 16, 'x'));
}

inline std::shared_ptr<Segment> make_segment(std::uint32_t slots = 4,
                                             std::uint64_t payload_bytes = kPageBytes) {
  auto segment = ok(Segment::create({"echo", {{payload_bytes, slots}}, kPageBytes, 2}));
  segment->activate_frontend(0);
  return segment;
}

// Answers a request as a pump of an identity would: output i has the bytes of input i.
inline void echo(Segment& segment, SlotHeader& slot, std::size_t outputs) {
  std::uint64_t used = 0;
  for (std::size_t i = 0; i < outputs; ++i) {
    const TensorRecord& in = slot.inputs[i];
    TensorRecord& out = slot.outputs[i];
    out = in;
    out.offset = slot.output_offset + used;
    std::ranges::copy(segment.bytes_at(in.offset, in.bytes),
                      segment.bytes_at(out.offset, out.bytes).begin());
    used += align_up(in.bytes);
  }
  slot.output_count = static_cast<std::uint32_t>(outputs);
}

// One batch, as a pump would serve it; `wake`: the front-ends to ring for. How many requests it
// had.
inline std::size_t echo_batch(Segment& segment, std::uint16_t instance, const Signature& signature,
                              std::vector<std::uint16_t>& wake) {
  Claim batch;
  segment.claim(instance, {signature.rows_max, 0}, now_ns(), batch, wake);
  for (const Ticket ticket : batch.slots) {
    echo(segment, segment.slot(ticket.slot), signature.outputs.size());
    std::uint16_t whom = kNobody;
    segment.complete(ticket, instance, Code::kOk, "", &whom);
    if (whom != kNobody) wake.push_back(whom);
  }
  return batch.slots.size();
}

class FrontendBench {
 public:
  explicit FrontendBench(Signature signature = echo_signature(), std::int64_t slo_ns = 0,
                         std::shared_ptr<Segment> served = make_segment(),
                         bool client_memory = false)
      : segment(std::move(served)), signature_(std::move(signature)) {
    if (client_memory) frontend.offer_client_memory();
    instance_ = ok(segment->add_instance());
    segment->flip(kNobody, instance_);
    added = frontend.add_function("echo", "1", segment, signature_, slo_ns);
  }

  // One batch: CLAIMED now, in due order.
  Claim claim() {
    Claim batch;
    std::vector<std::uint16_t> wake;
    segment->claim(instance_, {signature_.rows_max, 0}, now_ns(), batch, wake);
    return batch;
  }
  void complete(const Claim& batch, Code code = Code::kOk, std::string_view message = "") {
    std::uint16_t wake = kNobody;
    for (const Ticket ticket : batch.slots)
      segment->complete(ticket, instance_, code, message, &wake);
  }
  // Serves one batch and says how many requests it had.
  std::size_t serve() {
    std::vector<std::uint16_t> wake;
    return echo_batch(*segment, instance_, signature_, wake);
  }

  Result<TicketId> submit(const Proto& message, std::int64_t deadline_ns = kNever) {
    return frontend.submit(message.bytes(), deadline_ns);
  }
  std::vector<TicketId> take_done() {
    std::vector<TicketId> done;
    frontend.take_done(done);
    return done;
  }
  Result<std::string> answer(TicketId id, bool stream = false) {
    const auto bytes = frontend.begin_answer(id, stream);
    if (!bytes.ok()) return bytes.status();
    std::string out(bytes.value(), '\xee');
    frontend.write_answer(std::as_writable_bytes(std::span(out)));
    return out;
  }

  // The slot of a ticket, by the packing that ticket ids have.
  SlotHeader& slot(TicketId id) {
    return segment->slot(static_cast<std::uint32_t>(id >> 32 & 0xffff));
  }
  std::string payload(TicketId id, std::size_t index) {
    const TensorRecord& record = slot(id).inputs[index];
    return std::string(view_of(segment->bytes_at(record.offset, record.bytes)));
  }
  std::uint64_t outcome(Outcome outcome) {
    return segment->header().stats.outcome[static_cast<std::size_t>(outcome)].load_relaxed();
  }
  bool idle() { return free_slots(*segment) == segment->slot_count() && frontend.in_flight() == 0; }

  std::shared_ptr<Segment> segment;
  Frontend frontend{0};
  Status added;

 private:
  Signature signature_;
  std::uint16_t instance_ = 0;
};

}  // namespace gslice::test
