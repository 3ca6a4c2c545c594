// The pump: lanes, life, swaps, and what it tells of itself.
#include <thread>

#include "pump/identity.hpp"
#include "pump_bench.hpp"
#include "segment/lock.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Seen = TestEngine::Seen;
using Floats = std::vector<float>;

constexpr std::int64_t kLongNs = 20'000'000'000;

auto twice_behind(Gate& gate) {
  return [&gate](Batch& batch) {
    gate.pass();
    return twice(batch);
  };
}

}  // namespace

// ---- lanes -----------------------------------------------------------------------------------

TEST(two_lanes_hold_two_batches_and_compute_one_at_a_time) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(twice_behind(gate), 2);
  CHECK(instance.start().ok());
  CHECK_EQ(instance.lane_tids().size(), 2u);
  std::vector<Ticket> tickets;
  for (int i = 0; i < 6; ++i) tickets.push_back(bench.submit({1, 1}, {static_cast<float>(i)}));
  gate.await_visitor();
  while (bench.count(SlotState::kClaimed) < 2) std::this_thread::yield();
  CHECK_EQ(bench.count(SlotState::kQueued), 4u);
  gate.open();
  for (int i = 0; i < 6; ++i)
    CHECK(bench.answer(tickets[static_cast<std::size_t>(i)]).floats() ==
          Floats{2 * static_cast<float>(i)});
  instance.stop();
  CHECK_EQ(bench.engine->seen().size(), 6u);
  CHECK(bench.idle());
}

TEST(a_batch_grows_in_the_queue_while_another_computes) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 4));
  Gate gate;
  Instance& instance = bench.serve(twice_behind(gate), 2);
  CHECK(instance.start().ok());
  std::vector<Ticket> tickets{bench.submit({1, 1}, {0})};
  gate.await_visitor();
  const InstanceEntry& entry = bench.segment->header().instances[bench.last_index];
  for (int i = 1; i < 4; ++i) {
    const std::int64_t submitted_ns = now_ns();
    tickets.push_back(bench.submit({1, 1}, {static_cast<float>(i)}));
    while (entry.pump_stamp_ns.load_relaxed() < submitted_ns) std::this_thread::yield();
  }
  CHECK_EQ(bench.count(SlotState::kClaimed), 1u);
  tickets.push_back(bench.submit({1, 1}, {4}));  // full: its copies need not wait
  while (bench.count(SlotState::kClaimed) < 5) std::this_thread::yield();
  tickets.push_back(bench.submit({1, 1}, {5}));
  gate.open();
  for (std::size_t i = 0; i < tickets.size(); ++i)
    CHECK(bench.answer(tickets[i]).floats() == Floats{2 * static_cast<float>(i)});
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{1, 1, 0}, {4, 4, 1}, {1, 1, 0}});
  CHECK(bench.idle());
}

// What the daemon takes for a hang is the time a batch could run, not its wait for the core.
TEST(waiting_for_a_turn_to_compute_does_not_count_as_running) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate first, second;
  Instance& instance = bench.serve(
      [&](Batch& batch) {
        (values<const float>(batch.input(0))[0] == 1 ? first : second).pass();
        return twice(batch);
      },
      2);
  CHECK(instance.start().ok());
  const Ticket a = bench.submit({1, 1}, {1});
  first.await_visitor();
  const Ticket b = bench.submit({1, 1}, {2});
  const InstanceEntry& entry = bench.segment->header().instances[bench.last_index];
  while (entry.lane_started_ns[1].load_relaxed() == 0) std::this_thread::yield();
  const std::int64_t turn_ns = now_ns();
  first.open();
  second.await_visitor();
  while (entry.lane_started_ns[0].load_relaxed() != 0) std::this_thread::yield();
  CHECK(entry.lane_started_ns[1].load_relaxed() >= turn_ns);
  second.open();
  CHECK(bench.answer(a).floats() == Floats{2});
  CHECK(bench.answer(b).floats() == Floats{4});
}

TEST(an_expired_request_rings_its_front_end) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Instance& instance = bench.serve(twice);
  const Ticket late = bench.submit({1, 1}, {1}, now_ns());
  std::vector<Ticket> done;
  bench.segment->take_done(0, done);  // it goes to sleep
  CHECK(done.empty());
  CHECK(instance.start().ok());
  bench.await_bell();
  CHECK(bench.answer(late).code == Code::kDeadlineExceeded);
  instance.stop();
  CHECK(bench.engine->seen().empty());
  CHECK(bench.idle());
}

// Nobody rings when the delay ends: the pump's own sleep does.
TEST(a_batch_that_never_fills_runs_after_the_delay) {
  constexpr std::int64_t kDelayNs = 20'000'000;
  PumpBench bench(signature({-1, 1}, {-1, 1}, 8));
  bench.segment->header().batch_delay_ns.store(kDelayNs);
  Instance& instance = bench.serve(twice);
  CHECK(instance.start().ok());
  CHECK(bench.answer(bench.submit({1, 1}, {1})).floats() == Floats{2});
  instance.stop();
  const Histogram& queue = bench.stats().stage[static_cast<std::size_t>(Stage::kQueue)];
  CHECK_EQ(queue.count.load_relaxed(), 1u);
  CHECK(queue.sum_ns.load_relaxed() >= std::uint64_t{kDelayNs});
}

TEST(a_request_cancelled_while_it_runs_frees_its_slot) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(twice_behind(gate));
  CHECK(instance.start().ok());
  const Ticket ticket = bench.submit({1, 1}, {1});
  gate.await_visitor();
  CHECK(!bench.segment->cancel(ticket));
  gate.open();
  CHECK(instance.drain(kLongNs));
  CHECK(bench.idle());
  CHECK_EQ(bench.stats().outcome[static_cast<std::size_t>(Outcome::kOk)].load_relaxed(), 0u);
}

// ---- life ------------------------------------------------------------------------------------

TEST(drain_finishes_what_was_claimed_and_claims_nothing_new) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(twice_behind(gate));
  CHECK(instance.start().ok());
  const Ticket running = bench.submit({1, 1}, {1});
  const Ticket waiting = bench.submit({1, 1}, {2});
  gate.await_visitor();
  CHECK(!instance.drain(0));
  gate.open();
  CHECK(instance.drain(kLongNs));
  CHECK(bench.answer(running).floats() == Floats{2});
  CHECK_EQ(bench.count(SlotState::kQueued), 1u);
  CHECK(bench.segment->cancel(waiting));
  instance.stop();
  instance.stop();
  CHECK(!instance.start().ok());
}

// The pump that is told to stop, wherever it is, still reports to who waits for it to be drained.
TEST(drain_beside_stop_hears_of_the_end) {
  for (int turn = 0; turn < 20; ++turn) {
    PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
    Instance& instance = bench.serve(twice);
    CHECK(instance.start().ok());
    // The pump waits for the function's lock, between one look at its flags and the next.
    const FunctionLock lock(bench.segment->header().lock, kLongNs);
    CHECK(lock.held());
    bool drained = false;
    std::thread drainer([&] { drained = instance.drain(kLongNs); });
    instance.stop();
    drainer.join();
    CHECK(drained);
  }
}

TEST(stop_waits_for_what_is_in_flight) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(twice_behind(gate), 2);
  CHECK(instance.start().ok());
  const Ticket ticket = bench.submit({1, 1}, {21});
  gate.await_visitor();
  std::thread opener([&] { gate.open(); });
  instance.stop();
  opener.join();
  CHECK(bench.answer(ticket).floats() == Floats{42});
}

TEST(a_swap_between_two_instances_loses_nothing) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 4));
  Instance& first = bench.serve(twice, 2);
  const std::uint16_t old_index = bench.last_index;
  TestEngine* const old_engine = bench.engine;
  Instance& second = bench.add(twice, 2);
  CHECK(first.start().ok());
  CHECK(second.start().ok());
  constexpr int kRounds = 200;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Ticket> tickets;
    for (int i = 0; i < 4; ++i) tickets.push_back(bench.submit({1, 1}, {static_cast<float>(i)}));
    if (round == kRounds / 2) CHECK(bench.segment->flip(old_index, bench.last_index));
    for (int i = 0; i < 4; ++i)
      CHECK(bench.answer(tickets[static_cast<std::size_t>(i)]).floats() ==
            Floats{2 * static_cast<float>(i)});
  }
  CHECK(first.drain(kLongNs));
  CHECK(!old_engine->seen().empty());
  CHECK(!bench.engine->seen().empty());
  CHECK_EQ(bench.stats().rows.load_relaxed(), 4u * kRounds);
  bench.instances.clear();
  CHECK(bench.idle());
}

TEST(the_plain_twin_gives_the_same_answers_without_threads) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {4, 8}));
  Instance& instance = bench.serve(twice, 2, true);
  CHECK(!instance.run_once());
  const Ticket a = bench.submit({1, 2}, {1, 2});
  const Ticket b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.run_once());
  CHECK(!instance.run_once());
  CHECK(bench.answer(a).floats() == Floats{2, 4});
  CHECK(bench.answer(b).floats() == Floats{6, 8, 10, 12});
  CHECK(instance.lane_tids().empty());
  CHECK(bench.idle());
}

TEST(figures_tell_of_every_stage) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 8));
  Instance& instance = bench.serve(twice);
  bench.take_turns(instance);
  CHECK(instance.start().ok());
  for (int i = 0; i < 3; ++i) bench.answer(bench.submit({1, 1}, {1}));
  instance.stop();
  for (const Histogram& stage : bench.stats().stage) CHECK_EQ(stage.count.load_relaxed(), 3u);
  CHECK(bench.segment->header().batch_estimate_ns.load_relaxed() > 0);
  CHECK(bench.stats().compute_busy_ns.load_relaxed() > 0);
  const InstanceEntry& entry = bench.segment->header().instances[bench.last_index];
  CHECK(entry.pump_stamp_ns.load_relaxed() > 0);
  CHECK_EQ(entry.lane_started_ns[0].load_relaxed(), 0);
}

TEST(identity_runs_without_a_lane_thread) {
  PumpBench bench(signature({-1, -1}, {-1, -1}, 8));
  auto index = bench.segment->add_instance();
  CHECK(index.ok());
  CHECK(check_identity(bench.signature).ok());
  auto created =
      Instance::create(bench.segment, index.value(), bench.signature, 2,
                       std::make_unique<IdentityEngine>(), std::make_unique<CpuDevice>(2));
  CHECK(created.ok());
  Instance& instance = *created.value();
  CHECK(bench.segment->flip(kNobody, index.value()));
  const Ticket ticket = bench.submit({1, 3}, {1, 2, 3});
  CHECK(instance.start().ok());
  while (!bench.segment->is_done(ticket)) std::this_thread::yield();
  const Answer answer = bench.answer(ticket);
  CHECK(answer.dims == Dims{1, 3});
  CHECK(answer.floats() == Floats{1, 2, 3});
  CHECK(instance.lane_tids().empty());
  CHECK(!check_identity(signature({-1}, {-1, 1}, 4)).ok());
}

TEST(identity_in_place_answers_with_what_came) {
  PumpBench bench(signature({-1, -1}, {-1, -1}, 8, {8}));
  Instance& instance =
      bench.add_on(std::make_shared<CpuDevice>(1), 1, std::make_unique<IdentityEngine>(true));
  CHECK(bench.segment->flip(kNobody, bench.last_index));
  const Ticket a = bench.submit({1, 2}, {1, 2}), b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.run_once());  // one batch, padded for any other engine
  for (const Ticket ticket : {a, b}) {
    const SlotHeader& slot = bench.segment->slot(ticket.slot);
    CHECK_EQ(slot.outputs[0].offset, slot.inputs[0].offset);
  }
  CHECK(bench.answer(a).floats() == Floats{1, 2});
  CHECK(bench.answer(b).floats() == Floats{3, 4, 5, 6});
  CHECK_EQ(bench.stats().copies.load_relaxed(), 0u);
  CHECK_EQ(instance.counters().zero_copy_batches.load(), 1u);
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 0u);
  CHECK(bench.idle());
}

TEST(what_an_instance_cannot_have_is_refused) {
  PumpBench bench(signature({-1}, {-1}, 4));
  const auto make = [&](std::uint32_t index, std::uint32_t lanes) {
    return Instance::create(bench.segment, index, bench.signature, lanes,
                            std::make_unique<IdentityEngine>(), std::make_unique<CpuDevice>(lanes))
        .status()
        .code;
  };
  CHECK(make(kMaxInstances, 1) == Code::kInvalidArgument);
  CHECK(make(0, 0) == Code::kInvalidArgument);
  CHECK(make(0, kMaxLanes + 1) == Code::kInvalidArgument);
}
