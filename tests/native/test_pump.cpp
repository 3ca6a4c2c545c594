// The pump from a queued request to its answer: assembly of batches, lanes, errors, life.
#include <thread>

#include "pump/identity.hpp"
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Seen = TestEngine::Seen;
using Floats = std::vector<float>;

constexpr std::int64_t kLongNs = 20'000'000'000;

}  // namespace

// ---- batches ---------------------------------------------------------------------------------

TEST(a_single_request_is_bound_where_it_lies) {
  Bench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = bench.serve(twice);
  CHECK(instance.start().ok());
  const Answer answer = bench.answer(bench.submit({2, 2}, {1, 2, 3, 4}));
  CHECK_EQ(answer.message, "");
  CHECK(answer.dims == Dims{2, 2});
  CHECK(answer.floats() == Floats{2, 4, 6, 8});
  instance.stop();
  CHECK_EQ(instance.counters().zero_copy_batches.load(), 1u);
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 0u);
  CHECK_EQ(bench.stats().copies.load_relaxed(), 0u);
  CHECK(bench.idle());
}

TEST(requests_of_one_shape_share_a_batch) {
  Bench bench(signature({-1, -1}, {-1, -1}, 8));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit({1, 2}, {1, 2});
  const Ticket other = bench.submit({1, 3}, {7, 8, 9});
  const Ticket b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{1, 2});
  const Answer second = bench.answer(b);
  CHECK(second.dims == Dims{2, 2});
  CHECK(second.floats() == Floats{3, 4, 5, 6});
  CHECK(bench.answer(other).floats() == Floats{7, 8, 9});
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{3, 3, 0}, {1, 1, 0}});
  CHECK_EQ(bench.stats().rows.load_relaxed(), 4u);
  CHECK_EQ(bench.stats().executions.load_relaxed(), 2u);
  CHECK_EQ(bench.stats().batch_rows[3].load_relaxed(), 1u);
  // Two gathered, two scattered, one given by value for the request alone.
  CHECK_EQ(bench.stats().copies.load_relaxed(), 5u);
  CHECK_EQ(bench.stats().copied_bytes.load_relaxed(), (6u + 6u + 3u) * sizeof(float));
  CHECK(bench.idle());
}

TEST(gathered_batches_write_known_outputs_through_the_lane_buffer) {
  Bench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = bench.serve(twice);
  const Ticket a = bench.submit({1, 2}, {1, 2});
  const Ticket b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{2, 4});
  CHECK(bench.answer(b).floats() == Floats{6, 8, 10, 12});
  instance.stop();
  CHECK_EQ(instance.counters().zero_copy_batches.load(), 0u);
  CHECK_EQ(bench.stats().copies.load_relaxed(), 4u);
  CHECK(bench.idle());
}

TEST(a_batch_is_padded_to_its_bucket_with_zeros) {
  Bench bench(signature({-1, 2}, {-1, 2}, 8, {4, 8}));
  Instance& instance = bench.serve([](Batch& batch) {
    const auto x = values<const float>(batch.input(0));
    if (batch.input(0).shape.dims[0] != batch.bucket() || x.size() != batch.bucket() * 2)
      return Status::Error(Code::kInternal, "not padded");
    for (std::size_t i = batch.rows() * 2; i < x.size(); ++i)
      if (x[i] != 0) return Status::Error(Code::kInternal, "padding is not zero");
    return twice(batch);
  });
  CHECK(instance.start().ok());
  for (const std::int64_t rows : {8, 3, 5}) {
    const Floats data(static_cast<std::size_t>(rows) * 2, 3);
    const Answer answer = bench.answer(bench.submit({rows, 2}, data));
    CHECK_EQ(answer.message, "");
    CHECK(answer.dims == Dims{rows, 2});
    CHECK(answer.floats() == Floats(data.size(), 6));
  }
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{8, 8, 0}, {3, 4, 0}, {5, 8, 0}});
}

TEST(steady_state_grows_no_buffer) {
  Bench bench(signature({-1, 4}, {-1, 4}, 8, {4, 8}));
  Instance& instance = bench.serve(twice, 2);
  CHECK(instance.start().ok());
  for (const std::int64_t rows : {1, 7, 2, 5, 3})
    CHECK_EQ(
        bench.answer(bench.submit({rows, 4}, Floats(static_cast<std::size_t>(rows) * 4))).message,
        "");
  instance.stop();
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 1u);
}

TEST(functions_without_rows_run_one_request_at_a_time) {
  Bench bench(signature({2, -1}, {2, -1}, 0));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit({2, 1}, {1, 2});
  const Ticket b = bench.submit({2, 1}, {3, 4});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{1, 2});
  CHECK(bench.answer(b).floats() == Floats{3, 4});
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{1, 1, 0}, {1, 1, 0}});
  CHECK_EQ(bench.stats().rows.load_relaxed(), 2u);
}

// ---- outputs that only the engine knows ------------------------------------------------------

TEST(unknown_outputs_take_an_overflow_block_when_they_outgrow_the_slot) {
  constexpr std::int64_t kWide = 2048;  // 8 KiB a row; a slot's payload has 4
  Bench bench(signature({-1, 1}, {-1, -1}, 8));
  Instance& instance = bench.serve([](Batch& batch) {
    Floats y;
    for (const float x : values<const float>(batch.input(0))) y.insert(y.end(), kWide, x);
    const Dims dims{batch.bucket(), kWide};
    return batch.set_output(0, DType::kFp32, dims, std::as_bytes(std::span(y)));
  });
  const Ticket a = bench.submit({1, 1}, {1});
  const Ticket b = bench.submit({1, 1}, {2});
  CHECK(instance.start().ok());
  const Answer first = bench.answer(a);
  CHECK_EQ(first.message, "");
  CHECK(first.dims == Dims{1, kWide});
  CHECK(first.floats() == Floats(kWide, 1));
  CHECK(bench.answer(b).floats() == Floats(kWide, 2));
  instance.stop();
  CHECK_EQ(instance.counters().batches.load(), 1u);
  CHECK(bench.idle());
}

TEST(an_empty_overflow_pool_fails_only_the_request_that_needed_it) {
  constexpr std::int64_t kWide = 2048;
  Bench bench(signature({-1, 1}, {-1, -1}, 8), kPageBytes, 1);
  Instance& instance = bench.serve([](Batch& batch) {
    const Floats y(batch.bucket() * kWide, 1);
    return batch.set_output(0, DType::kFp32, Dims{batch.bucket(), kWide},
                            std::as_bytes(std::span(y)));
  });
  const Ticket a = bench.submit({1, 1}, {1});
  const Ticket b = bench.submit({1, 1}, {2});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).code == Code::kOk);
  const Answer failed = bench.answer(b);
  CHECK(failed.code == Code::kResourceExhausted);
  CHECK(failed.message.starts_with("output 'y' of 8192 bytes: "));
  instance.stop();
  CHECK(bench.idle());
}

TEST(bytes_are_gathered_padded_and_split_by_element) {
  Bench bench(signature({-1, 2}, {-1, 2}, 4, {4}, DType::kBytes));
  Instance& instance = bench.serve(echo);
  const Ticket a = bench.submit_bytes({1, 2}, serialised({"", "longer than the others"}));
  const Ticket b = bench.submit_bytes({2, 2}, serialised({"a", "bc", "def", ""}));
  CHECK(instance.start().ok());
  CHECK_EQ(bench.answer(a).bytes, serialised({"", "longer than the others"}));
  const Answer second = bench.answer(b);
  CHECK(second.dims == Dims{2, 2});
  CHECK_EQ(second.bytes, serialised({"a", "bc", "def", ""}));
  instance.stop();
  CHECK(bench.engine->seen() == std::vector<Seen>{{3, 4, 0}});
}

// ---- what goes wrong -------------------------------------------------------------------------

TEST(an_engine_error_fails_its_batch_and_no_other) {
  Bench bench(signature({-1, 1}, {-1, 1}, 8));
  Instance& instance = bench.serve([](Batch& batch) {
    if (values<const float>(batch.input(0))[0] == 13)
      return Status::Error(Code::kInternal, "ValueError: unlucky");
    return twice(batch);
  });
  const Ticket a = bench.submit({1, 1}, {13});
  const Ticket b = bench.submit({1, 1}, {1});
  CHECK(instance.start().ok());
  for (const Ticket ticket : {a, b}) {
    const Answer failed = bench.answer(ticket);
    CHECK(failed.code == Code::kInternal);
    CHECK_EQ(failed.message, "ValueError: unlucky");
  }
  CHECK(bench.answer(bench.submit({1, 1}, {2})).floats() == Floats{4});
  instance.stop();
  const auto outcome = [&](Outcome of) {
    return bench.stats().outcome[static_cast<std::size_t>(of)].load_relaxed();
  };
  CHECK_EQ(outcome(Outcome::kFailed), 2u);
  CHECK_EQ(outcome(Outcome::kOk), 1u);
  CHECK(bench.idle());
}

TEST(what_an_engine_gives_is_checked_against_the_signature) {
  const Floats data{1, 2, 3, 4, 5, 6};
  const auto bytes = std::as_bytes(std::span(data));
  struct Case {
    std::function<Status(Batch&)> body;
    std::string message;
  };
  const std::vector<Case> cases{
      {[](Batch&) { return Status::Ok(); }, "the engine gave no output 'y'"},
      {[&](Batch& b) { return b.set_output(0, DType::kInt32, Dims{2, 3}, bytes); },
       "output 'y' is INT32, the signature says FP32"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{6}, bytes); },
       "output 'y' has shape [6], the signature says [-1, -1]"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{3, 2}, bytes); },
       "output 'y' has 3 rows, the batch has 2"},
      {[&](Batch& b) { return b.set_output(0, DType::kFp32, Dims{2, 4}, bytes); },
       "output 'y' has 24 bytes, its shape [2, 4] needs 32"},
  };
  for (const Case& c : cases) {
    Bench bench(signature({-1, 1}, {-1, -1}, 8));
    Instance& instance = bench.serve(c.body);
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(bench.submit({2, 1}, {1, 2}));
    CHECK(answer.code == Code::kInternal);
    CHECK_EQ(answer.message, c.message);
  }
}

TEST(broken_bytes_outputs_are_named) {
  for (const std::string& data :
       {serialised({"a"}), serialised({"a", "b", "c"}), serialised({"a", "bcd"}).substr(0, 11)}) {
    Bench bench(signature({-1}, {-1}, 8, {}, DType::kBytes));
    Instance& instance = bench.serve([&](Batch& batch) {
      return batch.set_output(0, DType::kBytes, Dims{2}, std::as_bytes(std::span(data)));
    });
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(bench.submit_bytes({2}, serialised({"x", "y"})));
    CHECK(answer.code == Code::kInternal);
    CHECK(answer.message.starts_with("output 'y': "));
  }
}

TEST(a_damaged_slot_fails_alone) {
  Bench bench(signature({-1, 2}, {-1, 2}, 8));
  const Ticket good = bench.submit({1, 2}, {1, 2});
  const Ticket bad = bench.submit({1, 2}, {3, 4});
  bench.segment->slot(bad.slot).inputs[0].offset = bench.segment->size_bytes() - 4;
  Instance& instance = bench.serve(twice);
  CHECK(instance.start().ok());
  CHECK(bench.answer(good).floats() == Floats{2, 4});
  CHECK(bench.answer(bad).code == Code::kInternal);
  instance.stop();
  CHECK(bench.idle());
}

// ---- lanes -----------------------------------------------------------------------------------

TEST(two_lanes_hold_two_batches_and_compute_one_at_a_time) {
  Bench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(
      [&](Batch& batch) {
        gate.pass();
        return twice(batch);
      },
      2);
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
  Bench bench(signature({-1, 1}, {-1, 1}, 4));
  Gate gate;
  Instance& instance = bench.serve(
      [&](Batch& batch) {
        gate.pass();
        return twice(batch);
      },
      2);
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
  Bench bench(signature({-1, 1}, {-1, 1}, 1));
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

TEST(a_request_cancelled_while_it_runs_frees_its_slot) {
  Bench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve([&](Batch& batch) {
    gate.pass();
    return twice(batch);
  });
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
  Bench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve([&](Batch& batch) {
    gate.pass();
    return twice(batch);
  });
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

TEST(stop_waits_for_what_is_in_flight) {
  Bench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = bench.serve(
      [&](Batch& batch) {
        gate.pass();
        return twice(batch);
      },
      2);
  CHECK(instance.start().ok());
  const Ticket ticket = bench.submit({1, 1}, {21});
  gate.await_visitor();
  std::thread opener([&] { gate.open(); });
  instance.stop();
  opener.join();
  CHECK(bench.answer(ticket).floats() == Floats{42});
}

TEST(a_swap_between_two_instances_loses_nothing) {
  Bench bench(signature({-1, 1}, {-1, 1}, 4));
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
  Bench bench(signature({-1, 2}, {-1, 2}, 8, {4, 8}));
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
  Bench bench(signature({-1, 1}, {-1, 1}, 8));
  Instance& instance = bench.serve(twice);
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
  Bench bench(signature({-1, -1}, {-1, -1}, 8));
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

TEST(a_signature_that_cannot_be_batched_is_refused) {
  Bench bench(signature({2, 2}, {-1, 2}, 8));
  auto index = bench.segment->add_instance();
  const auto make = [&](std::uint32_t at, const Signature& of, std::uint32_t lanes) {
    return Instance::create(bench.segment, at, of, lanes, std::make_unique<IdentityEngine>(),
                            std::make_unique<CpuDevice>(lanes))
        .status()
        .code;
  };
  CHECK(make(0, bench.signature, 1) == Code::kInvalidArgument);
  CHECK(make(kMaxInstances, signature({-1}, {-1}, 4), 1) == Code::kInvalidArgument);
  CHECK(make(0, signature({-1}, {-1}, 4), kMaxLanes + 1) == Code::kInvalidArgument);
}
