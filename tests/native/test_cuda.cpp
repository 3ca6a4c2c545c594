// The data path of the CUDA device: batches to the byte, by every way that copies take, and what
// the driver was asked for it.
#include <sched.h>

#include <thread>

#include "cuda_bench.hpp"
#include "pump/identity.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

// Which way the copies go is told by the device's counters.
enum class Way { kStaged, kStraight };

std::size_t staging_bytes(Way way) { return way == Way::kStaged ? cuda::kStagingMaxBytes : 0; }

Floats ramp(std::size_t count, float first) {
  Floats out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = first + static_cast<float>(i);
  return out;
}

Floats doubled(Floats x) {
  for (float& value : x) value *= 2;
  return x;
}

// Requests of these rows in one batch: they are queued before the pump starts.
void check_batch(Way way, bool blocking, const std::vector<std::int64_t>& rows,
                 std::vector<std::uint32_t> buckets, std::int64_t width) {
  const auto device = open_device(2, staging_bytes(way));
  {
    PumpBench bench(signature({-1, width}, {-1, width}, 16, std::move(buckets)), 64 << 10);
    Instance& instance = serve_on(bench, device, twice_there, blocking);
    std::vector<Ticket> tickets;
    std::vector<Floats> inputs;
    for (const std::int64_t count : rows) {
      inputs.push_back(ramp(static_cast<std::size_t>(count * width), 100.0F * tickets.size()));
      tickets.push_back(bench.submit({count, width}, inputs.back()));
    }
    CHECK(instance.start().ok());
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      const Answer answer = bench.answer(tickets[i]);
      CHECK_EQ(answer.message, "");
      CHECK(answer.dims == Dims{rows[i], width});
      CHECK(answer.floats() == doubled(inputs[i]));
    }
    instance.stop();
    CHECK_EQ(instance.counters().batches.load(), 1u);
    CHECK_EQ(instance.counters().zero_copy_batches.load(), 0u);
    CHECK_EQ(instance.lane_tids().size(), 0u);
    CHECK(bench.idle());
  }
  CHECK(device->close().ok());
}

void check_all_ways(const std::vector<std::int64_t>& rows, std::vector<std::uint32_t> buckets,
                    std::int64_t width) {
  for (const Way way : {Way::kStaged, Way::kStraight})
    for (const bool blocking : {false, true}) check_batch(way, blocking, rows, buckets, width);
  check_nothing_left();
}

// The values of a lane's padding, as the engine saw them.
bool padding_is_zero(Batch& batch) {
  const auto x = values<const float>(batch.input(0));
  const std::size_t width = x.size() / batch.bucket();
  return std::ranges::all_of(x.subspan(batch.rows() * width), [](float v) { return v == 0; });
}

}  // namespace

TEST(a_single_request_goes_through_the_lanes_buffer) { check_all_ways({1}, {}, 2); }

TEST(requests_of_several_sizes_share_a_batch) { check_all_ways({1, 2, 4, 1}, {}, 3); }

TEST(a_batch_fills_its_bucket) { check_all_ways({4, 4}, {4, 8, 16}, 5); }

TEST(a_batch_larger_than_staging_goes_straight) { check_all_ways({1, 1, 1}, {4}, 8192); }

TEST(rows_of_no_element_move_no_byte) {
  const auto device = open_device(1);
  {
    PumpBench bench(signature({-1, 0}, {-1, 0}, 4));
    Instance& instance = serve_on(bench, device, twice_there);
    const Ticket ticket = bench.submit({2, 0}, {});
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(ticket);
    CHECK_EQ(answer.message, "");
    CHECK(answer.dims == Dims{2, 0});
  }
  CHECK_EQ(device->counters().copies.load() + device->counters().batched_copies.load(), 0u);
  CHECK(device->close().ok());
  check_nothing_left();
}

TEST(padding_is_zero_after_a_larger_batch_left_its_rows) {
  for (const Way way : {Way::kStaged, Way::kStraight}) {
    const auto device = open_device(1, staging_bytes(way));
    std::atomic<int> dirty{0};
    PumpBench bench(signature({-1, 16}, {-1, 16}, 8, {4, 8}));
    Instance& instance = serve_on(bench, device, [&](Batch& batch) {
      Status status = enqueue(*batch.stream(), [&] { dirty += !padding_is_zero(batch); });
      return status.ok() ? twice_there(batch) : status;
    });
    CHECK(instance.start().ok());
    for (const std::int64_t rows : {8, 3, 1, 5, 8, 2}) {
      const Floats x = ramp(static_cast<std::size_t>(rows) * 16, 1);
      CHECK(bench.answer(bench.submit({rows, 16}, x)).floats() == doubled(x));
    }
    instance.stop();
    CHECK_EQ(dirty.load(), 0);
    bench.instances.clear();
    CHECK(device->close().ok());
  }
  check_nothing_left();
}

TEST(copies_take_the_way_that_their_size_and_the_driver_give) {
  const bool batched = FakeMachine::get().driver_version() >= 12080;
  for (const Way way : {Way::kStaged, Way::kStraight}) {
    const auto device = open_device(1, staging_bytes(way));
    PumpBench bench(signature({-1, 4}, {-1, 4}, 8, {8}));
    Instance& instance = serve_on(bench, device, twice_there);
    const Ticket a = bench.submit({1, 4}, ramp(4, 1)), b = bench.submit({2, 4}, ramp(8, 2));
    CHECK(instance.start().ok());
    bench.answer(a);
    bench.answer(b);
    instance.stop();
    const cuda::Counters& counters = device->counters();
    const bool staged = way == Way::kStaged;
    // Two pieces and padding one way, two pieces the other.
    CHECK_EQ(counters.staged_copies.load(), staged ? 5u : 0u);
    CHECK_EQ(counters.batched_copies.load(), !staged && batched ? 4u : 0u);
    CHECK_EQ(counters.copies.load(), staged ? 2u : batched ? 0u : 4u);
    CHECK_EQ(bench.stats().copies.load_relaxed(), 4u);
    bench.instances.clear();
    CHECK(device->close().ok());
  }
  check_nothing_left();
}

TEST(steady_state_asks_for_nothing_that_waits_or_allocates) {
  const FakeMachine& machine = FakeMachine::get();
  for (const Way way : {Way::kStaged, Way::kStraight}) {
    const auto device = open_device(2, staging_bytes(way));
    PumpBench bench(signature({-1, 4}, {-1, 4}, 8, {2, 8}));
    Instance& instance = serve_on(bench, device, twice_there);
    CHECK(instance.start().ok());
    const auto burst = [&] {
      std::vector<Ticket> tickets;
      for (const std::int64_t rows : {1, 3, 2, 8, 1, 1, 5, 4})
        tickets.push_back(bench.submit({rows, 4}, Floats(static_cast<std::size_t>(rows) * 4, 1)));
      for (const Ticket ticket : tickets) CHECK(bench.answer(ticket).code == Code::kOk);
    };
    // Both lanes have had a batch when each has its buffer.
    while (instance.counters().lane_buffer_allocations.load() < 2) burst();
    const cuda::Counters& counters = device->counters();
    const std::uint64_t allocations = counters.allocations.load();
    const std::uint64_t synchronise_calls = counters.synchronise_calls.load();
    const std::int64_t theirs = machine.count("allocations"), waits = machine.count("synchronise");
    const std::uint64_t before = instance.counters().batches.load();
    for (int i = 0; i < 25; ++i) burst();
    CHECK(instance.counters().batches.load() >= before + 25);
    CHECK_EQ(counters.allocations.load(), allocations);
    CHECK_EQ(counters.synchronise_calls.load(), synchronise_calls);
    CHECK_EQ(synchronise_calls, 0u);
    CHECK_EQ(machine.count("allocations"), theirs);
    CHECK_EQ(machine.count("synchronise"), waits);
    CHECK_EQ(machine.count("legacy_stream"), 0);
    CHECK_EQ(machine.count("copies.pageable"), 0);
    instance.stop();
    bench.instances.clear();
    CHECK(device->close().ok());
  }
  check_nothing_left();
}

TEST(lanes_compute_at_the_same_time) {
  const auto device = open_device(2);
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  std::atomic<int> inside{0};
  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    Status status = enqueue(*batch.stream(), [&] {
      ++inside;
      gate.pass();
    });
    return status.ok() ? twice_there(batch) : status;
  });
  CHECK(instance.start().ok());
  const Ticket a = bench.submit({1, 1}, {1}), b = bench.submit({1, 1}, {2});
  while (inside.load() < 2) std::this_thread::yield();
  CHECK_EQ(bench.count(SlotState::kClaimed), 2u);
  gate.open();
  CHECK(bench.answer(a).floats() == Floats{2});
  CHECK(bench.answer(b).floats() == Floats{4});
}

TEST(a_blocking_engine_has_a_thread_for_each_lane) {
  const auto device = open_device(2);
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = serve_on(
      bench, device,
      [&](Batch& batch) {
        gate.pass();
        return twice_there(batch);
      },
      true);
  CHECK(instance.start().ok());
  CHECK_EQ(instance.lane_tids().size(), 2u);
  CHECK_EQ(sched_getscheduler(instance.pump_tid()), SCHED_OTHER);  // it polls: others would starve
  const Ticket a = bench.submit({1, 1}, {1}), b = bench.submit({1, 1}, {2});
  gate.await_visitor();
  while (bench.count(SlotState::kClaimed) < 2) std::this_thread::yield();
  gate.open();
  CHECK(bench.answer(a).floats() == Floats{2});
  CHECK(bench.answer(b).floats() == Floats{4});
  instance.stop();
  CHECK(instance.lane_tids().empty());
}

TEST(identity_never_leaves_the_device) {
  const auto device = open_device(2);
  for (const std::int64_t width : {std::int64_t{4}, std::int64_t{-1}}) {
    PumpBench bench(signature({-1, width}, {-1, width}, 8, {8}));
    Instance& instance = serve_on(bench, device, std::make_unique<IdentityEngine>());
    CHECK(instance.start().ok());
    for (const std::int64_t rows : {3, 8}) {
      const Floats x = ramp(static_cast<std::size_t>(rows) * 4, 1);
      const Answer answer = bench.answer(bench.submit({rows, 4}, x));
      CHECK_EQ(answer.message, "");
      CHECK(answer.floats() == x);
    }
    instance.stop();
    CHECK(bench.idle());
  }
  CHECK_EQ(device->counters().synchronise_calls.load(), 0u);
  CHECK(device->close().ok());
  check_nothing_left();
}

TEST(figures_tell_of_every_stage) {
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 1}, {-1, 1}, 8));
  constexpr std::int64_t kKernelNs = 2'000'000;
  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    Status status = enqueue(*batch.stream(), [] {
      const std::int64_t until_ns = now_ns() + kKernelNs;
      while (now_ns() < until_ns) std::this_thread::yield();
    });
    return status.ok() ? twice_there(batch) : status;
  });
  bench.take_turns(instance);
  CHECK(instance.start().ok());
  for (int i = 0; i < 3; ++i) bench.answer(bench.submit({1, 1}, {1}));
  instance.stop();
  for (const Histogram& stage : bench.stats().stage) CHECK_EQ(stage.count.load_relaxed(), 3u);
  CHECK(bench.stats().compute_busy_ns.load_relaxed() >= 3 * kKernelNs * 9 / 10);
  const auto sum_ns = [&](Stage stage) {
    return bench.stats().stage[static_cast<std::size_t>(stage)].sum_ns.load_relaxed();
  };
  CHECK(sum_ns(Stage::kCopyIn) > 0 && sum_ns(Stage::kCopyOut) > 0);
  CHECK(sum_ns(Stage::kCopyIn) + sum_ns(Stage::kCompute) + sum_ns(Stage::kCopyOut) <=
        sum_ns(Stage::kTotal));
}
