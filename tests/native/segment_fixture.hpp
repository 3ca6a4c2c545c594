// A small segment with one front-end and one instance that may pull, and requests for it.
#pragma once

#include <algorithm>
#include <vector>

#include "check.hpp"
#include "segment/segment.hpp"

namespace gslice::test {

inline constexpr std::uint64_t kPage = kPageBytes;
inline constexpr std::uint16_t kFrontend = 0;

struct Request {
  std::uint32_t rows = 1;
  std::int64_t width = 2;  // the second dimension
  std::int64_t due_ns = kNever;
  std::int64_t deadline_ns = kNever;
  std::uint16_t frontend = kFrontend;
  std::uint64_t shape_key = 0;  // 0: the width
};

inline SegmentSpec spec_of(std::vector<SlotClassSpec> classes = {{kPage, 8}},
                           std::uint32_t block_count = 2) {
  return {
      .name = "f", .classes = std::move(classes), .block_bytes = kPage, .block_count = block_count};
}

// One FP32 input of rows x width, as a front-end would write it.
inline void fill(Segment& segment, Ticket ticket, const Request& request) {
  SlotHeader& slot = segment.slot(ticket.slot);
  const std::uint64_t bytes =
      request.rows * static_cast<std::uint64_t>(request.width) * sizeof(float);
  TensorRecord& input = slot.inputs[0];
  input = {.offset = slot.payload_offset,
           .bytes = bytes,
           .dims = {request.rows, request.width},
           .rank = 2,
           .dtype = DType::kFp32,
           .pad = {}};
  slot.input_count = 1;
  slot.rows = request.rows;
  slot.shape_key =
      request.shape_key != 0 ? request.shape_key : static_cast<std::uint64_t>(request.width);
  slot.due_ns = request.due_ns;
  slot.deadline_ns = request.deadline_ns;
  slot.output_offset = slot.payload_offset + bytes;
  slot.output_bytes = slot.payload_bytes - bytes;
}

inline Ticket lease(Segment& segment, std::uint16_t frontend = kFrontend,
                    std::uint64_t bytes = kPage) {
  auto leased = segment.lease(frontend, bytes);
  CHECK(leased.ok());
  return leased.value();
}

inline Ticket submit(Segment& segment, const Request& request = {}) {
  const Ticket ticket = lease(segment, request.frontend, 1);
  fill(segment, ticket, request);
  CHECK(segment.queue(ticket));
  return ticket;
}

inline SlotWord word_of(Segment& segment, std::uint32_t index) {
  return SlotWord::unpack(segment.slot(index).word.load());
}
inline SlotState state_of(Segment& segment, Ticket ticket) {
  return word_of(segment, ticket.slot).state;
}
inline std::uint32_t in_state(Segment& segment, SlotState state) {
  return segment.count_states()[static_cast<std::size_t>(state)];
}
inline std::uint64_t outcomes(Segment& segment, Outcome outcome) {
  return segment.header().stats.outcome[static_cast<std::size_t>(outcome)].load();
}

// With no traffic, every word and every hint is as at creation, except the generations.
inline void check_idle(Segment& segment) {
  CHECK_EQ(in_state(segment, SlotState::kFree), segment.slot_count());
  CHECK_EQ(segment.blocks_in_use(), 0u);
  CHECK_EQ(segment.header().queued_rows.load(), 0);
  for (std::uint32_t i = 0; i < segment.slot_count(); ++i) {
    const std::uint64_t bit = std::uint64_t{1} << (i % 64);
    CHECK((segment.header().free[i / 64].load() & bit) != 0);
    CHECK((segment.header().queued[i / 64].load() & bit) == 0);
  }
}

struct Fixture {
  std::shared_ptr<Segment> segment;
  std::uint16_t instance = kNobody;
  std::vector<std::uint16_t> wake;
  Claim claimed;

  explicit Fixture(const SegmentSpec& spec = spec_of()) {
    auto created = Segment::create(spec);
    CHECK(created.ok());
    segment = created.take();
    segment->activate_frontend(kFrontend);
    auto added = segment->add_instance();
    CHECK(added.ok());
    instance = added.value();
    CHECK(segment->flip(kNobody, instance));
  }
  Segment& operator*() { return *segment; }
  Segment* operator->() { return segment.get(); }

  const std::vector<Ticket>& claim(ClaimLimits limits = {.rows_max = 8, .in_flight = 0},
                                   std::int64_t now = now_ns()) {
    segment->claim(instance, limits, now, claimed, wake);
    return claimed.slots;
  }
  std::uint16_t complete(Ticket ticket, Code code = Code::kOk, std::string_view message = {}) {
    std::uint16_t frontend = kNobody;
    if (segment->complete(ticket, instance, code, message, &frontend)) wake.push_back(frontend);
    return frontend;
  }
  std::vector<Ticket> done(std::uint16_t frontend = kFrontend) {
    std::vector<Ticket> out;
    segment->take_done(frontend, out);
    return out;
  }
};

inline bool same(Ticket a, Ticket b) { return a.slot == b.slot && a.generation == b.generation; }

}  // namespace gslice::test
