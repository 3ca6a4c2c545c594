// The front-end's side: lease, queue, cancel, take the answers, release.
#include <bit>

#include "segment/segment.hpp"

namespace gslice {

namespace {

// A full segment turns many requests away: each may look at the hints, but only one in 10 ms at all
// the words, which finds what a crash between a word and its hint has hidden.
constexpr std::int64_t kLeaseScanPeriodNs = 10'000'000;

void reset(SlotHeader& slot, std::uint16_t frontend, std::uint64_t payload_offset,
           std::uint64_t payload_bytes) {
  slot.frontend = frontend;
  slot.tainted_by = kNobody;
  slot.shape_key = 0;
  slot.rows = 0;
  slot.code = 0;
  slot.due_ns = kNever;
  slot.deadline_ns = kNever;
  slot.queued_ns = 0;
  slot.leased_ns = now_ns();
  slot.claimed_ns = 0;
  slot.compute_ns = slot.computed_ns = slot.done_ns = 0;
  slot.output_offset = payload_offset;
  slot.output_bytes = payload_bytes;
  slot.output_block = 0;
  slot.input_count = slot.output_count = slot.message_bytes = 0;
}

}  // namespace

// FREE -> LEASED of one slot, if it is free.
bool Segment::try_lease(std::uint32_t index, std::uint16_t frontend, Ticket& out) {
  SlotWord seen = load_word(index);
  if (seen.state != SlotState::kFree) return false;
  const SlotWord leased{SlotState::kLeased, 0, frontend, seen.generation + 1};
  if (!swap_word(index, seen, leased)) return false;
  header_->free[index / 64].fetch_and(~(std::uint64_t{1} << (index % 64)));
  const Area payload = payload_of(index);
  reset(slots_[index], frontend, payload.offset, payload.bytes);
  out = {index, leased.generation};
  return true;
}

// The smallest class that is large enough, or a larger one when that is full.
bool Segment::lease_hinted(std::uint64_t payload_bytes, std::uint16_t frontend, Ticket& out) {
  std::uint32_t begin = 0;  // classes ascend in size, and their slots are neighbours
  for (const ClassTable& c : classes_)
    if (c.payload_bytes < payload_bytes) begin += c.slots;
  for (std::uint32_t w = begin / 64; w < bitmap_words_; ++w) {
    std::uint64_t bits = header_->free[w].load();
    for (; bits != 0; bits &= bits - 1) {
      const std::uint32_t index = w * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
      if (index < begin || index >= slot_count_) continue;
      if (try_lease(index, frontend, out)) return true;
      repair_free(index);
    }
  }
  return false;
}

Result<Ticket> Segment::lease(std::uint16_t frontend, std::uint64_t payload_bytes) {
  if (frontend >= kMaxFrontends || header_->frontends[frontend].active.load() != 1)
    return Status::Error(Code::kUnavailable, "front-end " + std::to_string(frontend) +
                                                 " may not lease in the segment of " + name_);
  if (payload_bytes > largest_payload_bytes())
    return Status::Error(Code::kResourceExhausted,
                         "the request needs " + std::to_string(payload_bytes) + " bytes, but " +
                             name_ + " takes at most " + std::to_string(largest_payload_bytes()));
  Ticket ticket;
  if (lease_hinted(payload_bytes, frontend, ticket)) return ticket;
  if (scan_for_free() && lease_hinted(payload_bytes, frontend, ticket)) return ticket;
  return Status::Error(Code::kResourceExhausted, "the queue of " + name_ + " is full");
}

// Finds FREE slots that no hint shows. False: not yet time to look again, or there are none.
bool Segment::scan_for_free() {
  std::int64_t next = header_->lease_scan_ns.load();
  const std::int64_t now = now_ns();
  if (now < next && next - now <= kLeaseScanPeriodNs) return false;
  if (!header_->lease_scan_ns.compare_exchange(next, now + kLeaseScanPeriodNs)) return false;
  bool found = false;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    if (load_word(i).state != SlotState::kFree) continue;
    repair_free(i);
    found = true;
  }
  return found;
}

bool Segment::queue(Ticket ticket, bool ring) {
  if (ticket.slot >= slot_count_) return false;
  SlotWord seen = load_word(ticket.slot);
  if (!names(ticket, seen) || seen.state != SlotState::kLeased) return false;
  SlotHeader& slot = slots_[ticket.slot];
  const std::uint32_t rows = slot.rows;
  slot.queued_ns = now_ns();
  SlotWord queued = seen;
  queued.state = SlotState::kQueued;
  if (!swap_word(ticket.slot, seen, queued)) return false;
  mark_queued(ticket.slot, rows);
  if (ring) ring_pullers();
  return true;
}

bool Segment::cancel(Ticket ticket, Outcome why) {
  if (ticket.slot >= slot_count_) return true;
  SlotWord seen = load_word(ticket.slot);
  while (names(ticket, seen)) {
    switch (seen.state) {
      case SlotState::kLeased:
      case SlotState::kDone:
        retire(ticket.slot, seen);
        return true;
      case SlotState::kQueued:
        if (!take_back(ticket.slot, seen)) continue;
        count(why);
        retire(ticket.slot, seen);
        return true;
      case SlotState::kClaimed: {
        if ((seen.flags & kFlagCancelled) != 0) return false;
        SlotWord flagged = seen;
        flagged.flags |= kFlagCancelled;
        if (!swap_word(ticket.slot, seen, flagged)) continue;
        count(why);
        return false;
      }
      case SlotState::kFree:
      case SlotState::kQuarantined:
        return true;
    }
    return true;  // no state of ours: the word is corrupt, and not ours to touch
  }
  return true;
}

void Segment::release(Ticket ticket) {
  if (ticket.slot >= slot_count_) return;
  const SlotWord seen = load_word(ticket.slot);
  if (names(ticket, seen) && seen.state == SlotState::kDone) retire(ticket.slot, seen);
}

void Segment::take_done(std::uint16_t frontend, std::vector<Ticket>& out) {
  if (frontend >= kMaxFrontends) return;
  FrontendEntry& entry = header_->frontends[frontend];
  entry.armed.store(1);  // before looking: who finishes after the look sees it and wakes us
  for (std::uint32_t w = 0; w < bitmap_words_; ++w) {
    if (entry.done[w].load() == 0) continue;
    std::uint64_t bits = entry.done[w].exchange(0);
    for (; bits != 0; bits &= bits - 1) {
      const std::uint32_t index = w * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
      if (index < slot_count_) take_answer(index, frontend, out);
    }
  }
}

// Once a completion: the flag in the word remembers that the front-end was told.
void Segment::take_answer(std::uint32_t index, std::uint16_t frontend, std::vector<Ticket>& out) {
  SlotWord seen = load_word(index);
  while (seen.state == SlotState::kDone && seen.owner == frontend &&
         (seen.flags & kFlagTaken) == 0) {
    SlotWord taken = seen;
    taken.flags |= kFlagTaken;
    if (!swap_word(index, seen, taken)) continue;
    out.push_back({index, taken.generation});
    return;
  }
}

bool Segment::is_done(Ticket ticket) {
  if (ticket.slot >= slot_count_) return false;
  const SlotWord seen = load_word(ticket.slot);
  return names(ticket, seen) && seen.state == SlotState::kDone;
}

}  // namespace gslice
