// The dispatch wait: how long a request waits although it could have been claimed, above all at a
// swap.
#include <sched.h>

#include <thread>

#include "base/scheduling.hpp"
#include "pump/identity.hpp"
#include "pump_bench.hpp"
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

constexpr std::int64_t kLongNs = 20'000'000'000;
constexpr ClaimLimits kOne{.rows_max = 1};
constexpr ClaimLimits kLast{.rows_max = 1, .last = true};

const Histogram& dispatch(Segment& segment) {
  return segment.header().stats.stage[static_cast<std::size_t>(Stage::kDispatch)];
}
std::uint64_t measured(Segment& segment) { return dispatch(segment).count.load_relaxed(); }

InstanceEntry& entry_of(Segment& segment, std::uint16_t instance) {
  return segment.header().instances[instance];
}

// A request that has been queued since `queued_ns`.
Ticket queued_at(Fixture& f, std::int64_t queued_ns) {
  const Ticket ticket = submit(*f);
  f->slot(ticket.slot).queued_ns = queued_ns;
  return ticket;
}

// What the next claim adds to the dispatch waits; -1: nothing.
std::int64_t wait_of_claim(Fixture& f, std::int64_t now, const ClaimLimits& limits = kOne) {
  const std::uint64_t count = measured(*f), sum_ns = dispatch(*f).sum_ns.load_relaxed();
  CHECK(!f.claim(limits, now).empty());
  if (measured(*f) == count) return -1;
  CHECK_EQ(measured(*f), count + 1);
  return static_cast<std::int64_t>(dispatch(*f).sum_ns.load_relaxed() - sum_ns);
}

// A device whose lanes do not wait for each other, as those of a GPU.
class SideBySide final : public DeviceTable {
 public:
  explicit SideBySide(std::uint32_t lanes) : lanes_(lanes) {}
  bool binds_slots() const override { return lanes_.binds_slots(); }
  bool computes_in_turn() const override { return false; }
  Status open_lane(std::uint32_t lane, Engine& engine, std::function<void()> done) override {
    return lanes_.open_lane(lane, engine, std::move(done));
  }
  void close_lane(std::uint32_t lane) override { lanes_.close_lane(lane); }
  std::shared_ptr<std::byte> buffer(std::uint32_t lane, std::size_t bytes, bool* grown) override {
    return lanes_.buffer(lane, bytes, grown);
  }
  void copy_in(std::uint32_t lane, std::span<const Copy> gather) override {
    lanes_.copy_in(lane, gather);
  }
  void compute(std::uint32_t lane, Batch& batch) override { lanes_.compute(lane, batch); }
  void copy_out(std::uint32_t lane, std::span<const Copy> scatter) override {
    lanes_.copy_out(lane, scatter);
  }
  void record(std::uint32_t lane) override { lanes_.record(lane); }
  bool poll(std::uint32_t lane, LaneReport& report) override { return lanes_.poll(lane, report); }

 private:
  CpuDevice lanes_;
};

// The pump ends its turn after the answer is there, so a test that reads its stamps waits for them.
void await_ready(const InstanceEntry& entry, bool ready) {
  while ((entry.ready_since_ns.load_relaxed() != 0) != ready) std::this_thread::yield();
}

}  // namespace

// ---- what a claim counts ---------------------------------------------------------------------

TEST(a_claim_waits_since_it_was_queued_and_could_be_claimed) {
  Fixture f;
  entry_of(*f, f.instance).ready_since_ns.store(1000);
  queued_at(f, 1500);
  CHECK_EQ(wait_of_claim(f, 2000), 500);
  queued_at(f, 700);  // before anything could be launched
  CHECK_EQ(wait_of_claim(f, 2000), 1000);
  queued_at(f, 2500);  // between the claim's look at the clock and at the queue
  CHECK_EQ(wait_of_claim(f, 2000), 0);
  queued_at(f, 1800);
  queued_at(f, 1200);
  CHECK_EQ(wait_of_claim(f, 2000, {.rows_max = 2}), 800);  // the oldest of the batch
}

TEST(a_claim_ends_readiness_when_nothing_more_can_be_launched) {
  Fixture f;
  auto& since_ns = entry_of(*f, f.instance).ready_since_ns;
  since_ns.store(1000);
  queued_at(f, 1500);
  CHECK_EQ(wait_of_claim(f, 2000, kOne), 500);
  CHECK_EQ(since_ns.load(), 1000);
  queued_at(f, 1500);
  CHECK_EQ(wait_of_claim(f, 2000, kLast), 500);
  CHECK_EQ(since_ns.load(), 0);
  queued_at(f, 1500);
  CHECK_EQ(wait_of_claim(f, 2000, kLast), -1);  // ahead of its turn
}

TEST(waiting_on_purpose_is_no_dispatch_wait) {
  Fixture f;
  f->header().batch_delay_ns.store(100);
  queued_at(f, 1500);
  CHECK_EQ(wait_of_claim(f, 2000), -1);
  f->header().batch_delay_ns.store(0);

  const Ticket ticket = f.claimed.slots.front();
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).requeued, 1u);
  entry_of(*f, f.instance).ready_since_ns.store(1000);
  CHECK_EQ(wait_of_claim(f, 2000),
           -1);  // alone: it waited for every lane, and now they wait for it
  CHECK_EQ(entry_of(*f, f.instance).ready_since_ns.load(), 0);
  f.complete(ticket);
}

// ---- the flip --------------------------------------------------------------------------------

TEST(a_flip_hands_the_clock_on) {
  Fixture f;
  const std::uint16_t old = f.instance;
  f.instance = f->add_instance().value();
  InstanceEntry& entry = entry_of(*f, f.instance);
  CHECK_EQ(entry.ready_since_ns.load(), 0);
  entry_of(*f, old).ready_since_ns.store(1000);
  queued_at(f, 1500);  // the old one could have claimed it
  CHECK(f->flip(old, f.instance));
  CHECK_EQ(entry.ready_since_ns.load(), 1000);
  CHECK_EQ(entry_of(*f, old).ready_since_ns.load(), 0);
  CHECK_EQ(entry.first_wait_ns.load(), -1);
  CHECK_EQ(wait_of_claim(f, 2000), 500);
  CHECK_EQ(entry.first_wait_ns.load(), 500);
  queued_at(f, 1900);
  CHECK_EQ(wait_of_claim(f, 2000), 100);
  CHECK_EQ(entry.first_wait_ns.load(), 500);  // of the first alone
}

TEST(a_flip_starts_the_clock_where_the_old_one_was_busy) {
  Fixture f;
  const std::uint16_t old = f.instance;
  entry_of(*f, old).ready_since_ns.store(0);
  f.instance = f->add_instance().value();
  queued_at(f, 1500);
  const std::int64_t before_ns = now_ns();
  CHECK(f->flip(old, f.instance));
  const std::int64_t since_ns = entry_of(*f, f.instance).ready_since_ns.load();
  CHECK(since_ns >= before_ns);
  CHECK(since_ns <= now_ns());
  CHECK_EQ(wait_of_claim(f, since_ns + 700), 700);
}

TEST(a_flip_of_who_may_pull_already_leaves_its_clock) {
  Fixture f;
  InstanceEntry& entry = entry_of(*f, f.instance);
  queued_at(f, 1500);
  f.claim(kLast);
  const std::int64_t first_ns = entry.first_wait_ns.load();
  CHECK(f->flip(kNobody, f.instance));  // as at adoption
  CHECK_EQ(entry.ready_since_ns.load(), 0);
  CHECK_EQ(entry.first_wait_ns.load(), first_ns);
}

TEST(a_place_that_is_given_anew_starts_without_a_clock) {
  Fixture f;
  queued_at(f, 1500);
  f.claim(kOne);
  f.complete(f.claimed.slots.front());
  f->remove_instance(f.instance);
  CHECK_EQ(entry_of(*f, f.instance).ready_since_ns.load(), 0);
  CHECK_EQ(f->add_instance().value(), f.instance);
  CHECK_EQ(entry_of(*f, f.instance).first_wait_ns.load(), -1);
}

// ---- the pump --------------------------------------------------------------------------------

TEST(in_turn_an_instance_is_ready_while_nothing_runs) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(
      [&](Batch& batch) {
        gate.pass();
        return twice(batch);
      },
      2);
  const InstanceEntry& entry = entry_of(*bench.segment, bench.last_index);
  const std::int64_t flipped_ns = entry.ready_since_ns.load_relaxed();
  CHECK(flipped_ns > 0);
  CHECK(instance.start().ok());
  const Ticket a = bench.submit({1, 1}, {1});
  gate.await_visitor();
  CHECK_EQ(entry.ready_since_ns.load_relaxed(), 0);
  const Ticket b = bench.submit({1, 1}, {2});  // a full batch: it takes the other lane
  while (bench.count(SlotState::kClaimed) < 2) std::this_thread::yield();
  CHECK_EQ(measured(*bench.segment), 1u);
  const std::int64_t opened_ns = now_ns();
  gate.open();
  bench.answer(a);
  bench.answer(b);
  await_ready(entry, true);
  CHECK(entry.ready_since_ns.load_relaxed() >= opened_ns);
  CHECK_EQ(measured(*bench.segment), 1u);
  CHECK(instance.drain(kLongNs));
  await_ready(entry, false);
}

TEST(side_by_side_an_instance_is_ready_while_a_lane_is_free) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  // One of the lanes computes, the other waits for its turn: to the pump both are busy.
  Instance& instance = bench.add_on(std::make_shared<SideBySide>(2), 2,
                                    std::make_unique<TestEngine>([&](Batch& batch) {
                                      gate.pass();
                                      return twice(batch);
                                    }));
  CHECK(bench.segment->flip(kNobody, bench.last_index));
  const InstanceEntry& entry = entry_of(*bench.segment, bench.last_index);
  const std::int64_t flipped_ns = entry.ready_since_ns.load_relaxed();
  CHECK(instance.start().ok());
  const Ticket a = bench.submit({1, 1}, {1});
  gate.await_visitor();
  CHECK_EQ(entry.ready_since_ns.load_relaxed(), flipped_ns);
  const Ticket b = bench.submit({1, 1}, {2});
  await_ready(entry, false);
  CHECK_EQ(measured(*bench.segment), 2u);
  const std::int64_t opened_ns = now_ns();
  gate.open();
  bench.answer(a);
  bench.answer(b);
  await_ready(entry, true);
  CHECK(entry.ready_since_ns.load_relaxed() >= opened_ns);
}

// Its claim took the lane, and the lane was given back unused.
TEST(an_instance_whose_batch_could_not_be_laid_out_is_ready) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = bench.serve(twice, 1, true);
  const Ticket wrong = bench.submit({1, 2}, {1, 2});
  bench.segment->slot(wrong.slot).inputs[0].bytes = 1;
  CHECK(instance.run_once());
  CHECK(bench.answer(wrong).code != Code::kOk);
  CHECK(entry_of(*bench.segment, bench.last_index).ready_since_ns.load_relaxed() != 0);
  bench.answer([&] {
    const Ticket right = bench.submit({1, 2}, {1, 2});
    CHECK(instance.run_once());
    return right;
  }());
  CHECK_EQ(measured(*bench.segment), 2u);
}

// The wait of what was queued behind a running batch counts from the flip: from there on a lane,
// the newcomer's, was free.
TEST(a_swap_under_load_measures_its_hole) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& old = bench.serve([&](Batch& batch) {
    gate.pass();
    return twice(batch);
  });
  const std::uint16_t old_index = bench.last_index;
  Instance& next = bench.add(twice);
  const InstanceEntry& entry = entry_of(*bench.segment, bench.last_index);
  CHECK(old.start().ok());
  CHECK(next.start().ok());
  const Ticket running = bench.submit({1, 1}, {1});
  gate.await_visitor();
  const Ticket waiting = bench.submit({1, 1}, {2});
  const std::int64_t before_ns = now_ns();
  CHECK(bench.segment->flip(old_index, bench.last_index));
  CHECK(bench.answer(waiting).floats() == std::vector<float>{4});
  const std::int64_t answered_ns = now_ns();
  CHECK(entry.first_wait_ns.load_relaxed() >= 0);
  CHECK(entry.first_wait_ns.load_relaxed() <= answered_ns - before_ns);
  CHECK_EQ(entry_of(*bench.segment, old_index).ready_since_ns.load_relaxed(), 0);
  gate.open();
  CHECK(old.drain(kLongNs));
  CHECK(bench.answer(running).floats() == std::vector<float>{2});
  await_ready(entry_of(*bench.segment, old_index), false);
}

// Whoever computes in the pump's own thread must not keep others from the core.
TEST(a_pump_that_only_dispatches_goes_before_others_where_it_may) {
  bool may = false;
  std::thread([&] { may = run_in_real_time(); }).join();
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Instance& dispatches = bench.serve(twice);
  CHECK(dispatches.start().ok());
  const int policy = sched_getscheduler(dispatches.pump_tid());
  CHECK_EQ(policy & ~SCHED_RESET_ON_FORK, may ? SCHED_FIFO : SCHED_OTHER);
  Instance& computes =
      bench.add_on(std::make_shared<CpuDevice>(1), 1, std::make_unique<IdentityEngine>());
  CHECK(computes.start().ok());
  CHECK_EQ(sched_getscheduler(computes.pump_tid()), SCHED_OTHER);
  CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
}
