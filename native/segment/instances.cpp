// The supervisor's side of the tables: who may pull, who may lease, and what the words say.
#include "segment/lock.hpp"
#include "segment/segment.hpp"

namespace gslice {

namespace {

// The supervisor's event loop waits here; a claim holds the lock for microseconds.
constexpr std::int64_t kOrderPatienceNs = 1'000'000'000;

constexpr std::uint32_t kAbsent = 0;
constexpr std::uint32_t kPresent = 1;

}  // namespace

Result<std::uint16_t> Segment::add_instance() {
  for (std::uint16_t i = 0; i < kMaxInstances; ++i) {
    InstanceEntry& entry = header_->instances[i];
    if (entry.state.load() != kAbsent || owns_anything(i)) continue;
    entry.may_pull.store(0);
    entry.sleeping.store(0);
    entry.alone_slot.store(0);
    entry.producer_cpu.store_relaxed(-1);
    entry.pump_stamp_ns.store(0);
    entry.last_claim_ns.store(0);
    entry.ready_since_ns.store(0);
    entry.first_wait_ns.store(-1);
    for (auto& started : entry.lane_started_ns) started.store(0);
    entry.state.store(kPresent);
    return i;
  }
  return Status::Error(Code::kResourceExhausted,
                       "the segment of " + name_ + " has no free place for an instance");
}

void Segment::remove_instance(std::uint16_t instance) {
  if (instance >= kMaxInstances) return;
  // Should the lock be out of reach, its holder is stopped or dead: then this is all one can do.
  const FunctionLock lock(header_->lock, kOrderPatienceNs);
  InstanceEntry& entry = header_->instances[instance];
  entry.may_pull.store(0);
  entry.ready_since_ns.store(0);
  entry.state.store(kAbsent);
}

std::optional<std::int64_t> Segment::flip(std::uint16_t old, std::uint16_t next) {
  const std::int64_t began_ns = now_ns();
  {
    const FunctionLock lock(header_->lock, kOrderPatienceNs);
    if (!lock.held()) return std::nullopt;
    std::int64_t ready_since_ns = 0;
    if (old < kMaxInstances) {
      InstanceEntry& entry = header_->instances[old];
      entry.may_pull.store(0);
      ready_since_ns = entry.ready_since_ns.exchange(0);
    }
    if (next < kMaxInstances && !may_pull(next)) {  // else nothing is new to it
      InstanceEntry& entry = header_->instances[next];
      entry.first_wait_ns.store(-1);
      entry.ready_since_ns.store(ready_since_ns != 0 ? ready_since_ns : now_ns());
      entry.may_pull.store(1);
    }
  }
  const std::int64_t took_ns = now_ns() - began_ns;
  ring(next);  // what was queued before rang somebody else
  return took_ns;
}

bool Segment::may_pull(std::uint16_t instance) {
  return instance < kMaxInstances && header_->instances[instance].may_pull.load() == 1;
}

void Segment::activate_frontend(std::uint16_t frontend) {
  if (frontend >= kMaxFrontends) return;
  header_->frontends[frontend].armed.store(1);  // its first answer must wake it
  header_->frontends[frontend].active.store(1);
}

std::array<std::uint32_t, 6> Segment::count_states() {
  std::array<std::uint32_t, 6> counts{};
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const auto state = static_cast<std::size_t>(load_word(i).state);
    if (state < counts.size()) ++counts[state];
  }
  return counts;
}

void Segment::rebuild_hints() {
  std::int64_t before = header_->queued_rows.load();
  std::int64_t rows = 0;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    repair_free(i);
    repair_queued(i);
    repair_done(i);
    if (load_word(i).state == SlotState::kQueued) rows += queued_weight(slots_[i].rows);
  }
  header_->queued_rows.compare_exchange(before, rows);  // traffic meanwhile: then it is kept
  sweep_blocks(kNobody, BlockState::kFree);
  ring_pullers();
}

}  // namespace gslice
