// What the supervisor does after a death: give back a dead front-end's slots, run a dead instance's
// requests again, and keep what its device may still write to out of use until that is over.
#include "segment/segment.hpp"

namespace gslice {

namespace {

// Owner of a CLAIMED slot that the supervisor took from a dead instance: neither the instance, were
// it alive after all, nor anybody else can change it now. A supervisor that dies here leaves what
// its successor recognises.
constexpr std::uint16_t kTakenOver = 0x8000;

}  // namespace

std::uint32_t Segment::reap_frontend(std::uint16_t frontend) {
  if (frontend >= kMaxFrontends) return 0;
  FrontendEntry& entry = header_->frontends[frontend];
  entry.active.store(0);
  entry.armed.store(0);
  std::uint32_t reaped = 0;
  for (std::uint32_t i = 0; i < slot_count_; ++i)
    if (reap(i, frontend)) ++reaped;
  for (auto& hints : entry.done) hints.store(0);
  return reaped;
}

bool Segment::reap(std::uint32_t index, std::uint16_t frontend) {
  SlotWord seen = load_word(index);
  for (;;) {
    switch (seen.state) {
      case SlotState::kLeased:
      case SlotState::kDone:
        return seen.owner == frontend && retire(index, seen);
      case SlotState::kQueued:
        if (seen.owner != frontend) return false;
        if (take_back(index, seen)) count(Outcome::kCancelled);
        continue;  // LEASED now, or claimed meanwhile
      case SlotState::kClaimed: {
        if (slots_[index].frontend != frontend || (seen.flags & kFlagCancelled) != 0) return false;
        SlotWord flagged = seen;
        flagged.flags |= kFlagCancelled;
        if (!swap_word(index, seen, flagged)) continue;
        count(Outcome::kCancelled);
        return true;
      }
      default:
        return false;
    }
  }
}

Requeued Segment::requeue(std::uint16_t instance, bool may_rerun, std::vector<std::uint16_t>& wake,
                          bool device_gone, bool blamed) {
  Requeued counts;
  if (instance >= kMaxInstances) return counts;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    SlotWord taken;
    if (!take_over(i, instance, taken)) continue;
    if (!device_gone) quarantine_output(i, taken, instance);
    settle(i, taken, may_rerun, device_gone, blamed, counts);
  }
  sweep_blocks(instance, device_gone ? BlockState::kFree : BlockState::kQuarantined);
  rebuild_hints();
  // The dead may have finished a request without telling its front-end, or have taken the 1 of
  // `armed` without writing the eventfd: whoever has an untaken answer is told now. Its `armed` is
  // left as it is: should the caller die before it writes, the next answer must still ring.
  std::array<bool, kMaxFrontends> told{};
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const SlotWord word = load_word(i);
    if (word.state == SlotState::kDone && (word.flags & kFlagTaken) == 0 &&
        word.owner < kMaxFrontends && !told[word.owner]) {
      told[word.owner] = true;
      wake.push_back(word.owner);
    }
  }
  return counts;
}

bool Segment::take_over(std::uint32_t index, std::uint16_t instance, SlotWord& taken) {
  SlotWord seen = load_word(index);
  while (seen.state == SlotState::kClaimed) {
    taken = seen;
    taken.owner = instance | kTakenOver;
    if (seen.owner == taken.owner) return true;  // by a supervisor before us
    if (seen.owner != instance) return false;
    if (swap_word(index, seen, taken)) return true;
  }
  return false;
}

// Where the dead instance's device may still write: its block, and the payload's tail, which it may
// have used before it took the block. After this the slot has no output area.
void Segment::quarantine_output(std::uint32_t index, SlotWord& taken, std::uint16_t instance) {
  SlotHeader& slot = slots_[index];
  quarantine_block(slot.output_block, instance);
  slot.output_block = 0;
  if ((taken.flags & kFlagTainted) != 0) return;  // an earlier one has it still: ours had a block
  slot.tainted_by = instance;
  SlotWord tainted = taken;
  do {
    tainted = taken;
    tainted.flags |= kFlagTainted;
  } while (!swap_word(index, taken, tainted));  // only a cancel can come between
  taken = tainted;
}

// What becomes of a dead instance's request: it runs again, alone if it may have been what killed
// the instance, or it is answered, or freed.
void Segment::settle(std::uint32_t index, SlotWord taken, bool may_rerun, bool device_gone,
                     bool blamed, Requeued& counts) {
  SlotHeader& slot = slots_[index];
  const std::uint16_t frontend = slot.frontend;
  const bool was_alone = (taken.flags & kFlagAlone) != 0;
  const bool convicted = was_alone && blamed;
  const std::uint8_t alone = was_alone || blamed ? kFlagAlone : 0;
  const bool reruns = may_rerun && !convicted;
  bool has_output = device_gone;
  if (reruns && !device_gone) {
    const std::uint64_t fresh = take_block(index, kNobody);
    has_output = fresh != 0;
    if (has_output) use_block(index, fresh);
  }
  if (convicted)
    write_answer(index, Code::kInternal, "two workers died while they ran this request");
  else if (!may_rerun)
    write_answer(index, Code::kUnavailable,
                 "the worker died while it ran this request, which may not run twice");
  else if (!has_output)
    write_answer(index, Code::kUnavailable,
                 "the worker died, and no overflow block was free to run this request again");

  const bool again = reruns && has_output;
  SlotWord seen = taken;
  SlotWord next;
  do {
    if ((seen.flags & kFlagCancelled) != 0 || frontend >= kMaxFrontends) {
      retire(index, seen);
      ++counts.freed;
      return;
    }
    next = {again ? SlotState::kQueued : SlotState::kDone,
            static_cast<std::uint8_t>((seen.flags & kFlagTainted) | (again ? alone : 0)), frontend,
            seen.generation};
  } while (!swap_word(index, seen, next));  // only a cancel can come between

  if (again) {
    mark_queued(index, slot.rows);
    ++counts.requeued;
    count(Outcome::kRequeued);
  } else if (reruns) {
    ++counts.failed;
    count(Outcome::kFailed);
  } else {
    ++counts.poisoned;
    count(Outcome::kPoisoned);
  }
}

std::uint32_t Segment::fail_queued(Code code, std::string_view message,
                                   std::vector<std::uint16_t>& wake) {
  // As instance 0's, taken over: a supervisor that dies half-way leaves what `requeue` recognises.
  constexpr std::uint16_t kOwner = kTakenOver;
  std::uint32_t failed = 0;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    SlotWord seen = load_word(i);
    while (seen.state == SlotState::kQueued) {
      SlotWord taken = seen;
      taken.state = SlotState::kClaimed;
      taken.owner = kOwner;
      const std::uint16_t frontend = seen.owner;
      if (!swap_word(i, seen, taken)) continue;
      slots_[i].frontend = frontend;
      unmark_queued(i, slots_[i].rows);
      fail(i, kOwner, code, message, wake);
      ++failed;
      break;
    }
  }
  return failed;
}

std::uint32_t Segment::release_quarantine(std::uint16_t instance) {
  if (instance >= kMaxInstances) return 0;
  std::uint32_t released = release_blocks(instance);
  for (std::uint32_t i = 0; i < slot_count_; ++i)
    if (release_slot(i, instance)) ++released;
  return released;
}

// QUARANTINED -> FREE; and a slot still in use will not have to be quarantined. True: it was.
bool Segment::release_slot(std::uint32_t index, std::uint16_t instance) {
  SlotWord seen = load_word(index);
  for (;;) {
    if (seen.state == SlotState::kQuarantined && seen.owner == instance) {
      if (!swap_word(index, seen, {SlotState::kFree, 0, kNobody, seen.generation})) continue;
      repair_free(index);
      return true;
    }
    if ((seen.flags & kFlagTainted) == 0 || slots_[index].tainted_by != instance) return false;
    SlotWord clean = seen;
    clean.flags &= static_cast<std::uint8_t>(~kFlagTainted);
    if (swap_word(index, seen, clean)) return false;
  }
}

// True: a slot or a block still waits for the end of `instance`, so its index cannot be given anew.
bool Segment::owns_anything(std::uint16_t instance) {
  if (owns_block(instance)) return true;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const SlotWord word = load_word(i);
    const bool claims = word.state == SlotState::kClaimed &&
                        (word.owner == instance || word.owner == (instance | kTakenOver));
    const bool holds = word.state == SlotState::kQuarantined && word.owner == instance;
    const bool taints = (word.flags & kFlagTainted) != 0 && slots_[i].tainted_by == instance;
    if (claims || holds || taints) return true;
  }
  return false;
}

}  // namespace gslice
