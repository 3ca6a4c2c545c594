// The slot words, and the hints that follow from them. A hint is corrected in one order only: clear
// it, look at the word again, set it. The other order would lose what happened in between.
#include <algorithm>

#include "segment/segment.hpp"

namespace gslice {

namespace {

using Bitmap = std::array<Shared<std::uint64_t>, kBitmapWords>;

std::uint64_t bit_of(std::uint32_t index) { return std::uint64_t{1} << (index % 64); }
void set_bit(Bitmap& bitmap, std::uint32_t index) { bitmap[index / 64].fetch_or(bit_of(index)); }
void clear_bit(Bitmap& bitmap, std::uint32_t index) {
  bitmap[index / 64].fetch_and(~bit_of(index));
}

}  // namespace

// A request of a function that is not batchable has no rows, and counts as one.
std::int64_t Segment::queued_weight(std::uint32_t rows) { return std::max<std::int64_t>(rows, 1); }

SlotWord Segment::load_word(std::uint32_t index) {
  return SlotWord::unpack(slots_[index].word.load());
}

// On failure `seen` is what the word is now.
bool Segment::swap_word(std::uint32_t index, SlotWord& seen, SlotWord next) {
  std::uint64_t expected = seen.pack();
  if (slots_[index].word.compare_exchange(expected, next.pack())) return true;
  seen = SlotWord::unpack(expected);
  return false;
}

bool Segment::names(Ticket ticket, SlotWord word) const {
  return ticket.slot < slot_count_ && word.generation == ticket.generation;
}

void Segment::mark_queued(std::uint32_t index, std::uint32_t rows) {
  set_bit(header_->queued, index);
  header_->queued_rows.fetch_add(queued_weight(rows));
}

// Only by whoever just took the slot out of QUEUED: nobody else can queue it until he lets it go.
void Segment::unmark_queued(std::uint32_t index, std::uint32_t rows) {
  clear_bit(header_->queued, index);
  header_->queued_rows.fetch_sub(queued_weight(rows));
}

// While the bit is wrongly clear, a lease may miss the slot: then it looks at the words.
void Segment::repair_free(std::uint32_t index) {
  if (load_word(index).state != SlotState::kFree) clear_bit(header_->free, index);
  if (load_word(index).state == SlotState::kFree) set_bit(header_->free, index);
}

// While the bit is wrongly clear, a claim may miss the slot and its pump go to sleep: so only under
// the function's lock, or with a ring afterwards.
void Segment::repair_queued(std::uint32_t index) {
  if (load_word(index).state != SlotState::kQueued) clear_bit(header_->queued, index);
  if (load_word(index).state == SlotState::kQueued) set_bit(header_->queued, index);
}

void Segment::repair_done(std::uint32_t index) {
  const SlotWord word = load_word(index);
  if (word.state == SlotState::kDone && (word.flags & kFlagTaken) == 0 &&
      word.owner < kMaxFrontends)
    set_bit(header_->frontends[word.owner].done, index);
}

// QUEUED -> LEASED by the front-end that owns it (or for it, when it is dead), so that nobody
// claims the slot while it is being freed.
bool Segment::take_back(std::uint32_t index, SlotWord& seen) {
  const std::uint32_t rows = slots_[index].rows;
  SlotWord leased = seen;
  leased.state = SlotState::kLeased;
  if (!swap_word(index, seen, leased)) return false;
  unmark_queued(index, rows);
  seen = leased;
  return true;
}

// The end of a request, by the slot's owner: -> FREE, or -> QUARANTINED while a dead instance's
// device may still write into the payload. False: the slot is no longer his.
bool Segment::retire(std::uint32_t index, SlotWord owned) {
  SlotHeader& slot = slots_[index];
  free_block(slot.output_block);
  SlotWord seen = owned;
  do {
    if (seen.state != owned.state || seen.owner != owned.owner ||
        seen.generation != owned.generation)
      return false;
    const bool tainted = (seen.flags & kFlagTainted) != 0;
    const SlotWord next{tainted ? SlotState::kQuarantined : SlotState::kFree, 0,
                        tainted ? slot.tainted_by : kNobody, seen.generation};
    if (swap_word(index, seen, next)) {
      if (!tainted) set_bit(header_->free, index);
      return true;
    }
  } while (true);  // only flags can have changed: a cancel, or the end of the quarantine
}

// After the word turned DONE. True: the front-end sleeps and its eventfd must be written.
bool Segment::announce_done(std::uint32_t index, std::uint16_t frontend) {
  FrontendEntry& entry = header_->frontends[frontend];
  set_bit(entry.done, index);
  return entry.armed.exchange(0) == 1;
}

void Segment::ring_pullers() {
  for (std::uint16_t i = 0; i < kMaxInstances; ++i)
    if (header_->instances[i].may_pull.load() == 1) ring(i);
}

void Segment::count(Outcome outcome) {
  header_->stats.outcome[static_cast<std::size_t>(outcome)].add_relaxed(1);
}

}  // namespace gslice
