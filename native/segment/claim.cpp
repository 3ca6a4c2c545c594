// The claim: once a batch, under the function's lock. What it reads while it scans may change under
// its hands; the compare-and-swap to CLAIMED says whether it was true.
#include <algorithm>
#include <bit>

#include "segment/lock.hpp"
#include "segment/segment.hpp"

namespace gslice {

namespace {

// The lock is held for microseconds; who waits longer has a stopped holder before him and had
// better look after his lanes and try again.
constexpr std::int64_t kPatienceNs = 5'000'000;

}  // namespace

struct Segment::Candidate {
  std::uint64_t word;  // as it was when the rest was read
  std::uint64_t shape_key;
  std::int64_t due_ns, deadline_ns, queued_ns;
  std::uint32_t slot, rows;

  SlotWord unpacked() const { return SlotWord::unpack(word); }
  bool alone() const { return (unpacked().flags & kFlagAlone) != 0; }
  bool operator<(const Candidate& other) const {
    if (due_ns != other.due_ns) return due_ns < other.due_ns;
    if (queued_ns != other.queued_ns) return queued_ns < other.queued_ns;
    return slot < other.slot;
  }
};

struct Segment::Candidates {
  std::array<Candidate, kMaxSlots> items;  // left as it is: a claim must not clear 48 KiB
  std::size_t count = 0;

  Candidate* begin() { return items.data(); }
  Candidate* end() { return items.data() + count; }
  const Candidate* begin() const { return items.data(); }
  const Candidate* end() const { return items.data() + count; }
  void add(const Candidate& candidate) {
    if (count < items.size()) items[count++] = candidate;
  }
  // Keeps the first, and those that may share its batch within `rows_max`, in due order. True: no
  // more would fit.
  bool keep_batch(std::uint32_t rows_max);
};

bool Segment::Candidates::keep_batch(std::uint32_t rows_max) {
  const auto head = std::min_element(begin(), end());
  const std::uint64_t shape_key = head->shape_key;
  std::iter_swap(begin(), head);
  if (rows_max == 0 || begin()->alone()) {
    count = 1;
    return true;
  }
  const auto shaped = std::partition(begin() + 1, end(), [&](const Candidate& c) {
    return c.shape_key == shape_key && !c.alone();
  });
  std::sort(begin() + 1, shaped);
  std::uint64_t rows = begin()->rows;
  bool full = rows >= rows_max;
  std::size_t kept = 1;
  for (const Candidate* c = begin() + 1; c != shaped; ++c) {
    if (rows + c->rows > rows_max) {
      full = true;
      continue;
    }
    rows += c->rows;
    items[kept++] = *c;
  }
  count = kept;
  return full || rows >= rows_max;
}

// What `instance` would claim now. False: nothing, or not before `out.wait_until_ns`.
bool Segment::choose(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now,
                     Candidates& batch, Claim& out, std::vector<std::uint16_t>& wake) {
  if (header_->instances[instance].may_pull.load() != 1) return false;
  if (limits.in_flight > 0 && runs_alone(instance)) return false;
  scan_queue(instance, now, batch, wake);
  if (batch.count == 0) return false;
  const std::uint32_t published = header_->batch_rows_max.load_relaxed();
  const std::uint32_t rows_max =
      published == 0 ? limits.rows_max : std::min(published, limits.rows_max);
  const bool full = batch.keep_batch(rows_max);
  // What runs alone is next, once this instance has nothing else.
  if (batch.begin()->alone() && limits.in_flight > 0) return false;
  if (!full && limits.full_only) return false;
  if (full) return true;
  out.wait_until_ns = delayed_until(batch, now);
  return out.wait_until_ns <= now;
}

bool Segment::peek(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now, Claim& out,
                   std::vector<std::uint16_t>& wake) {
  out.slots.clear();
  out.wait_until_ns = kNever;
  if (instance >= kMaxInstances) return false;
  const FunctionLock lock(header_->lock, kPatienceNs);
  if (!lock.held()) {
    out.wait_until_ns = now;
    return false;
  }
  Candidates batch;
  if (!choose(instance, limits, now, batch, out, wake)) return false;
  out.due_ns = batch.begin()->due_ns;
  return true;
}

void Segment::claim(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now, Claim& out,
                    std::vector<std::uint16_t>& wake) {
  out.slots.clear();
  out.wait_until_ns = kNever;
  if (instance >= kMaxInstances) return;
  const FunctionLock lock(header_->lock, kPatienceNs);
  if (!lock.held()) {
    out.wait_until_ns = now;
    return;
  }
  Candidates batch;
  if (!choose(instance, limits, now, batch, out, wake)) return;
  InstanceEntry& entry = header_->instances[instance];
  const bool alone = batch.begin()->alone();

  for (const Candidate& candidate : batch) {
    if (!take(candidate, instance)) continue;
    if (!out.slots.empty() && !same_shape(out.slots.front().slot, candidate.slot)) {
      put_back(candidate.slot, instance);
    } else {
      slots_[candidate.slot].claimed_ns = now;
      out.slots.push_back({candidate.slot, candidate.unpacked().generation});
    }
  }
  // Nothing was left of this batch, but others may be queued: the caller tries again at once.
  out.wait_until_ns = out.slots.empty() ? now : kNever;
  if (out.slots.empty()) return;
  if (alone)
    entry.alone_slot.store(out.slots.front().slot + 1);
  else
    record_dispatch(entry, out, now);
  if (alone || limits.last) entry.ready_since_ns.store_relaxed(0);
  entry.last_claim_ns.store(now);
}

// The dispatch wait of a claim, unless some of the wait was meant: by a batch delay, or by an
// instance that does more than it counts as ready for (a full batch, ahead of its turn). A request
// that runs alone was made to wait for idle lanes, and does not come here.
void Segment::record_dispatch(InstanceEntry& entry, const Claim& claim, std::int64_t now) {
  const std::int64_t ready_since_ns = entry.ready_since_ns.load_relaxed();
  if (ready_since_ns == 0 || header_->batch_delay_ns.load_relaxed() > 0) return;
  std::int64_t queued_ns = now;
  for (const Ticket& ticket : claim.slots)
    queued_ns = std::min<std::int64_t>(queued_ns, slots_[ticket.slot].queued_ns);
  const std::int64_t wait_ns = std::max<std::int64_t>(now - std::max(queued_ns, ready_since_ns), 0);
  histogram_add(header_->stats.stage[static_cast<std::size_t>(Stage::kDispatch)], wait_ns);
  if (entry.first_wait_ns.load_relaxed() < 0) entry.first_wait_ns.store_relaxed(wait_ns);
}

// Fills `found` with what is queued. If the hints show nothing, though rows are said to be queued,
// the words are asked: a process that died between a word and its hint must strand nobody.
void Segment::scan_queue(std::uint16_t instance, std::int64_t now, Candidates& found,
                         std::vector<std::uint16_t>& wake) {
  for (std::uint32_t w = 0; w < bitmap_words_; ++w) {
    std::uint64_t bits = header_->queued[w].load();
    for (; bits != 0; bits &= bits - 1) {
      const std::uint32_t index = w * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
      if (index < slot_count_) consider(index, instance, now, found, wake);
    }
  }
  std::int64_t rows = header_->queued_rows.load();
  if (found.count > 0 || rows == 0) return;
  for (std::uint32_t i = 0; i < slot_count_; ++i)
    if (load_word(i).state == SlotState::kQueued) {
      repair_queued(i);
      consider(i, instance, now, found, wake);
    }
  // Nobody is queued and nobody came meanwhile: the sum had drifted.
  if (found.count == 0) header_->queued_rows.compare_exchange(rows, 0);
}

void Segment::consider(std::uint32_t index, std::uint16_t instance, std::int64_t now,
                       Candidates& found, std::vector<std::uint16_t>& wake) {
  const SlotWord word = load_word(index);
  if (word.state != SlotState::kQueued) {
    repair_queued(index);
    return;
  }
  const SlotHeader& slot = slots_[index];
  const Candidate candidate{.word = word.pack(),
                            .shape_key = slot.shape_key,
                            .due_ns = slot.due_ns,
                            .deadline_ns = slot.deadline_ns,
                            .queued_ns = slot.queued_ns,
                            .slot = index,
                            .rows = slot.rows};
  const bool served =
      word.owner < kMaxFrontends && header_->frontends[word.owner].active.load() == 1;
  if (!served) {
    if (take(candidate, instance)) retire(index, load_word(index));
  } else if (candidate.deadline_ns <= now) {
    if (take(candidate, instance))
      fail(index, instance, Code::kDeadlineExceeded, "the deadline passed in the queue", wake);
  } else {
    found.add(candidate);
  }
}

// Until when a batch that is not full waits for more: the controller's delay after its oldest
// request came, but not so long that one of them would miss its deadline.
std::int64_t Segment::delayed_until(const Candidates& batch, std::int64_t now) {
  const std::int64_t delay = header_->batch_delay_ns.load_relaxed();
  if (delay <= 0) return now;
  const std::int64_t estimate =
      std::max<std::int64_t>(header_->batch_estimate_ns.load_relaxed(), 0);
  std::int64_t until = kNever;
  for (const Candidate& c : batch) {
    const std::int64_t queued = std::min(c.queued_ns, now);
    until = std::min(until, queued > kNever - delay ? kNever : queued + delay);
    if (c.deadline_ns != kNever) until = std::min(until, c.deadline_ns - estimate);
  }
  return until;
}

// QUEUED -> CLAIMED, if the word is what it was: then so is everything that was read after it.
bool Segment::take(const Candidate& candidate, std::uint16_t instance) {
  SlotWord seen = candidate.unpacked();
  SlotWord claimed = seen;
  claimed.state = SlotState::kClaimed;
  claimed.owner = instance;
  if (!swap_word(candidate.slot, seen, claimed)) return false;
  slots_[candidate.slot].frontend = candidate.unpacked().owner;
  unmark_queued(candidate.slot, candidate.rows);
  return true;
}

// CLAIMED -> QUEUED, for a request that cannot share this batch after all.
void Segment::put_back(std::uint32_t index, std::uint16_t instance) {
  SlotWord seen = load_word(index);
  const std::uint32_t rows = slots_[index].rows;
  while (seen.state == SlotState::kClaimed && seen.owner == instance) {
    if ((seen.flags & kFlagCancelled) != 0) {
      retire(index, seen);
      return;
    }
    SlotWord queued = seen;
    queued.state = SlotState::kQueued;
    queued.owner = slots_[index].frontend;
    if (!swap_word(index, seen, queued)) continue;
    mark_queued(index, rows);
    return;
  }
}

bool Segment::runs_alone(std::uint16_t instance) {
  const std::uint32_t number = header_->instances[instance].alone_slot.load();
  if (number == 0 || number > slot_count_) return false;
  const SlotWord word = load_word(number - 1);
  return word.state == SlotState::kClaimed && word.owner == instance &&
         (word.flags & kFlagAlone) != 0;
}

// Answers a slot that was just claimed, without running it.
void Segment::fail(std::uint32_t index, std::uint16_t instance, Code code, std::string_view message,
                   std::vector<std::uint16_t>& wake) {
  std::uint16_t frontend = kNobody;
  const Ticket ticket{index, load_word(index).generation};
  if (complete(ticket, instance, code, message, &frontend)) wake.push_back(frontend);
  if (frontend != kNobody)
    count(code == Code::kDeadlineExceeded ? Outcome::kExpired : Outcome::kFailed);
}

}  // namespace gslice
