// What the pump asks of memory: nothing once it is warm, and an answer when there is none.
#include <cstring>

#include "allocations.hpp"
#include "base/clock.hpp"
#include "pump/identity.hpp"
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

// An instance of the identity engine, driven by run_once().
std::unique_ptr<Instance> identity(PumpBench& bench) {
  const auto index = bench.segment->add_instance();
  CHECK(index.ok());
  CHECK(bench.segment->flip(kNobody, index.value()));
  auto created =
      Instance::create(bench.segment, index.value(), bench.signature, 1,
                       std::make_unique<IdentityEngine>(), std::make_unique<CpuDevice>(1));
  CHECK(created.ok());
  return created.take();
}

// Without turns, and with them.
void allocates_nothing_once_warm(const std::shared_ptr<TurnBoard>& board) {
  PumpBench bench(signature({-1, 4}, {-1, 4}, 8, {4, 8}));
  const auto instance = identity(bench);
  if (board) CHECK(instance->take_turns(board, board->add(1, 0, 0, kWholePpm).value()).ok());
  const Floats row(4, 1), rows(12, 2);
  const auto turn = [&] {
    const Ticket first = bench.submit({1, 4}, row), second = bench.submit({3, 4}, rows);
    const std::size_t before = allocations.load();
    CHECK(instance->run_once());  // both, gathered
    const std::size_t gathered = allocations.load() - before;
    CHECK(bench.answer(first).floats() == row);
    CHECK(bench.answer(second).floats() == rows);
    const Ticket alone = bench.submit({4, 4}, Floats(16, 3));
    const std::size_t again = allocations.load();
    CHECK(instance->run_once());  // where it lies
    const std::size_t in_place = allocations.load() - again;
    CHECK(bench.answer(alone).floats() == Floats(16, 3));
    return gathered + in_place;
  };
  CHECK(turn() > 0);
  for (int i = 0; i < 100; ++i) CHECK_EQ(turn(), 0u);
  CHECK_EQ(instance->counters().zero_copy_batches.load(), 0u);  // identity gives by value
  CHECK_EQ(instance->counters().lane_buffer_allocations.load(), 1u);
}

}  // namespace

TEST(no_allocation_once_warm) {
  allocates_nothing_once_warm(nullptr);
  const auto board = TurnBoard::create("cpu").take();
  allocates_nothing_once_warm(board);
  board->set_limit(kWholePpm);
  allocates_nothing_once_warm(board);
}

TEST(no_memory_for_a_lane_buffer_is_an_answer) {
  PumpBench bench(signature({-1, 4}, {-1, 4}, 8));
  const auto instance = identity(bench);
  const auto both = [&] {
    const std::vector tickets{bench.submit({1, 4}, Floats(4, 1)),
                              bench.submit({1, 4}, Floats(4, 2))};
    CHECK(instance->run_once());
    return std::vector{bench.answer(tickets[0]), bench.answer(tickets[1])};
  };
  refused_align = kLaneAlign;  // only lane buffers are aligned so
  for (const Answer& answer : both()) {
    CHECK(answer.code == Code::kResourceExhausted);
    CHECK(answer.message.starts_with("no memory for a lane buffer of "));
  }
  refused_align = 0;
  for (const Answer& answer : both()) CHECK(answer.code == Code::kOk);
  CHECK(bench.idle());
}

TEST(inputs_of_requests_that_run_are_recorded_on_order) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  const auto instance = identity(bench);
  const auto run = [&](float value) {
    const Ticket ticket = bench.submit({1, 2}, {value, value});
    const std::size_t before = allocations.load();
    CHECK(instance->run_once());
    const std::size_t allocated = allocations.load() - before;
    CHECK(bench.answer(ticket).code == Code::kOk);
    return allocated;
  };
  constexpr std::size_t kRequestBytes = 40;  // rank, two dims, length; two floats
  Recorder& recorder = instance->recorder();
  run(1);  // nobody has asked
  CHECK(recorder.begin(2, 1024, kNever));
  run(2);
  CHECK_EQ(run(3), 0u);
  CHECK_EQ(recorder.left(), 0u);
  run(4);  // enough
  const Recorder::Recording recording = recorder.end();
  CHECK_EQ(recording.requests, 2u);
  CHECK(!recording.full);
  CHECK_EQ(recording.bytes.size(), 2 * kRequestBytes);
  float value = 0;
  std::memcpy(&value, &recording.bytes[2 * kRequestBytes - sizeof value], sizeof value);
  CHECK_EQ(value, 3.f);

  CHECK(recorder.begin(9, 2 * kRequestBytes + 1, kNever));
  for (int i = 0; i < 4; ++i) run(5);
  CHECK_EQ(recorder.left(), 0u);
  const Recorder::Recording bounded = recorder.end();
  CHECK(bounded.full);
  CHECK_EQ(bounded.bytes.size(), 2 * kRequestBytes);

  CHECK(recorder.begin(9, 1024, now_ns()));
  run(6);  // too late
  CHECK_EQ(recorder.left(), 0u);
  CHECK_EQ(recorder.end().requests, 0u);
}

TEST(what_fails_is_no_sample) {
  PumpBench bench(signature({-1, 1}, {-1, 1}, 8));
  Instance& instance =
      bench.serve([](Batch&) { return Status::Error(Code::kInternal, "no such row"); }, 1, true);
  CHECK(instance.recorder().begin(1, 1024, kNever));
  const Ticket ticket = bench.submit({1, 1}, {1});
  CHECK(instance.run_once());
  CHECK(bench.answer(ticket).code == Code::kInternal);
  CHECK_EQ(instance.recorder().end().requests, 0u);
}
