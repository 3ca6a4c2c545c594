// The pump's side after the claim: completion, and the doorbell it sleeps on.
#include <sched.h>

#include <algorithm>

#include "base/futex.hpp"
#include "base/pause.hpp"
#include "segment/segment.hpp"

namespace gslice {

namespace {

// About what a sleep and a wake-up cost: spinning longer can only lose.
constexpr std::int64_t kSpinNs = 20'000;

}  // namespace

bool Segment::complete(Ticket ticket, std::uint16_t instance, Code code, std::string_view message,
                       std::uint16_t* wake, const RunStamps& stamps) {
  *wake = kNobody;
  if (ticket.slot >= slot_count_) return false;
  SlotWord seen = load_word(ticket.slot);
  const auto mine = [&] {
    return names(ticket, seen) && seen.state == SlotState::kClaimed && seen.owner == instance;
  };
  if (!mine()) return false;
  write_answer(ticket.slot, code, message, stamps);
  const std::uint16_t frontend = slots_[ticket.slot].frontend;
  while (mine()) {
    if ((seen.flags & kFlagCancelled) != 0 || frontend >= kMaxFrontends) {
      retire(ticket.slot, seen);
      return false;
    }
    const SlotWord done{SlotState::kDone, static_cast<std::uint8_t>(seen.flags & kFlagTainted),
                        frontend, seen.generation};
    if (!swap_word(ticket.slot, seen, done)) continue;
    *wake = frontend;
    return announce_done(ticket.slot, frontend);
  }
  return false;
}

std::uint32_t Segment::doorbell(std::uint16_t instance) {
  return instance < kMaxInstances ? header_->instances[instance].doorbell.load() : 0;
}

// Ring first, then look for a sleeper; the pump says that it sleeps first, then looks at the bell.
// In any order of the four, one of the two sees the other. Only the pump writes `sleeping`: a
// ringer that took the 1 away for a ring the pump had already seen would hide its sleep from the
// next one.
void Segment::ring(std::uint16_t instance) {
  if (instance >= kMaxInstances) return;
  InstanceEntry& entry = header_->instances[instance];
  entry.producer_cpu.store_relaxed(sched_getcpu());
  entry.doorbell.fetch_add(1);
  if (entry.sleeping.load() == 1) futex_wake(entry.doorbell);
}

void Segment::wait(std::uint16_t instance, std::uint32_t doorbell_seen, std::int64_t until_ns) {
  if (instance >= kMaxInstances) return;
  InstanceEntry& entry = header_->instances[instance];
  const std::int32_t cpu = sched_getcpu();
  const std::int32_t producer_cpu = entry.producer_cpu.load_relaxed();
  if (producer_cpu >= 0 && producer_cpu != cpu) {  // on the same CPU it waits for us to sleep
    const std::int64_t spin_until = std::min(until_ns, now_ns() + kSpinNs);
    while (entry.doorbell.load() == doorbell_seen && now_ns() < spin_until) pause_cpu();
  }
  while (entry.doorbell.load() == doorbell_seen && now_ns() < until_ns) {
    entry.sleeping.store(1);
    if (entry.doorbell.load() == doorbell_seen) futex_wait(entry.doorbell, doorbell_seen, until_ns);
  }
  entry.sleeping.store(0);
}

}  // namespace gslice
