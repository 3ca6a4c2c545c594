// What the pump asks of memory: nothing once it is warm, and an answer when there is none.
#include "allocations.hpp"
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
