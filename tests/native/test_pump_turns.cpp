// Pumps that take turns: whose batch runs when, what ends a turn, and what waiting for one is not.
#include <thread>

#include "pump_bench.hpp"
#include "turns/board.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

constexpr std::int64_t kLongNs = 20'000'000'000;
constexpr std::int64_t kSecondNs = 1'000'000'000;

// A device that is one, and functions of it.
struct Device {
  explicit Device(std::uint32_t limit_percent = 100) {
    auto created = TurnBoard::create("cpu");
    CHECK(created.ok());
    board = created.take();
    set_limit(limit_percent);
  }
  void set_limit(std::uint32_t limit_percent) { board->set_limit(limit_percent * 10'000); }
  std::shared_ptr<TurnBoard> board;
};

// A function with an instance on the device, whose batches wait at a gate.
class Function {
 public:
  Function(Device& device, std::uint32_t share_percent, std::uint32_t lanes = 1)
      : bench(signature({-1, 1}, {-1, 1}, 1)), board_(device.board) {
    Instance& of = bench.serve(
        [this](Batch& batch) {
          order = ++device_order;
          gate.pass();
          return twice(batch);
        },
        lanes);
    auto added = board_->add(1, 0, 0, share_percent * 10'000);
    CHECK(added.ok());
    turn = added.value();
    CHECK(of.take_turns(board_, turn).ok());
    CHECK(of.start().ok());
  }
  ~Function() {
    gate.open();
    instance().stop();
    CHECK(state() == TurnState::kIdle);
    CHECK(bench.idle());
  }

  Instance& instance() { return *bench.instances.front(); }
  TurnState state() { return board_->entry(turn).state.load(); }
  void await(TurnState expected) {
    while (state() != expected) std::this_thread::yield();
  }
  Ticket submit(std::int64_t due_in_ns = kLongNs) {
    return bench.submit({1, 1}, {1}, now_ns() + due_in_ns);
  }
  // One whose batch has begun, and one whose batch waits for its turn.
  Ticket running() {
    const Ticket ticket = submit();
    gate.await_visitor();
    return ticket;
  }
  Ticket waiting(std::int64_t due_in_ns = kLongNs) {
    const Ticket ticket = submit(due_in_ns);
    await(TurnState::kWaiting);
    return ticket;
  }
  void answered(Ticket ticket) { CHECK(bench.answer(ticket).floats() == Floats{2}); }
  InstanceEntry& entry() { return bench.segment->header().instances[bench.last_index]; }
  std::uint64_t turns_taken() {
    return bench.stats().stage[static_cast<std::size_t>(Stage::kTurn)].count.load();
  }

  Gate gate;
  PumpBench bench;
  std::uint32_t turn = kNoTurn;
  std::atomic<int> order{0};  // when its last batch began, of all
  static inline std::atomic<int> device_order{0};

 private:
  std::shared_ptr<TurnBoard> board_;
};

}  // namespace

TEST(batches_of_functions_that_do_not_fit_run_one_after_the_other) {
  Device device;
  Function a(device, 60), b(device, 60);
  const Ticket first = a.running();
  const Ticket second = b.waiting();
  CHECK_EQ(b.bench.count(SlotState::kQueued), 1u);  // it can grow in the queue
  a.gate.open();
  b.gate.open();
  a.answered(first);
  b.answered(second);
  CHECK(a.order < b.order);
  CHECK_EQ(a.turns_taken() + b.turns_taken(), 2u);
}

// So that admission does not promise what others' turns make late.
TEST(the_time_of_a_batch_includes_its_wait_for_a_turn) {
  Device device;
  Function a(device, 60), b(device, 60);
  const Ticket first = a.running();
  const Ticket second = b.waiting();
  const std::int64_t began_ns = now_ns();
  while (now_ns() - began_ns < 20'000'000) std::this_thread::yield();
  a.gate.open();
  b.gate.open();
  a.answered(first);
  b.answered(second);
  CHECK(b.bench.segment->header().batch_estimate_ns.load() >= 20'000'000);
}

TEST(batches_that_fit_run_together) {
  Device device;
  Function a(device, 60), b(device, 40);
  const Ticket first = a.submit(), second = b.submit();
  a.gate.await_visitor();
  b.gate.await_visitor();
  a.gate.open();
  b.gate.open();
  a.answered(first);
  b.answered(second);
}

TEST(the_batch_that_is_due_first_runs_first) {
  Device device;
  Function holder(device, 60), late(device, 60), early(device, 60);
  late.gate.open();
  early.gate.open();
  const Ticket held = holder.running();
  const Ticket second = late.waiting(9 * kSecondNs);
  const Ticket first = early.waiting(8 * kSecondNs);
  holder.gate.open();
  holder.answered(held);
  early.answered(first);
  late.answered(second);
  CHECK(early.order < late.order);
}

TEST(a_more_urgent_request_moves_its_function_forward) {
  Device device;
  Function holder(device, 60), late(device, 60), early(device, 60);
  late.gate.open();
  early.gate.open();
  const Ticket held = holder.running();
  const Ticket third = late.waiting(9 * kSecondNs);
  const Ticket second = early.waiting(8 * kSecondNs);
  const Ticket first = late.submit(7 * kSecondNs);
  const std::int64_t due_ns = device.board->entry(early.turn).due_ns.load();
  while (device.board->entry(late.turn).due_ns.load() >= due_ns) std::this_thread::yield();
  holder.gate.open();
  for (const Ticket& ticket : {first, third}) late.answered(ticket);
  early.answered(second);
  holder.answered(held);
  CHECK_EQ(late.order - holder.order, 3);  // its own second batch waited for that of the other
}

// With requests of its own left, a function competes for the next turn when it ends one.
TEST(who_ends_a_turn_and_is_still_the_most_urgent_goes_on) {
  Device device;
  Function urgent(device, 60), other(device, 60);
  other.gate.open();
  const Ticket first = urgent.submit(2 * kSecondNs);
  urgent.gate.await_visitor();
  const Ticket last = other.waiting(9 * kSecondNs);
  const Ticket second = urgent.submit(3 * kSecondNs);
  urgent.gate.open();
  urgent.answered(first);
  urgent.answered(second);
  other.answered(last);
  CHECK(urgent.order < other.order);
}

TEST(one_batch_at_a_time_whatever_the_lanes) {
  Device device;
  Function a(device, 60, 2);
  const Ticket first = a.running();
  const std::int64_t submitted_ns = now_ns();
  const Ticket second = a.submit();
  while (a.entry().pump_stamp_ns.load_relaxed() < submitted_ns) std::this_thread::yield();
  while (a.entry().sleeping.load() == 0) std::this_thread::yield();
  CHECK_EQ(a.bench.count(SlotState::kClaimed), 1u);
  a.gate.open();
  a.answered(first);
  a.answered(second);
}

// ---- what waiting is not

TEST(waiting_for_a_turn_is_neither_running_nor_a_late_dispatch) {
  Device device;
  Function a(device, 60), b(device, 60);
  const Ticket first = a.running();
  const Ticket second = b.waiting();
  while (b.entry().ready_since_ns.load() != 0) std::this_thread::yield();
  CHECK_EQ(b.entry().lane_started_ns[0].load(), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the wait that is measured
  a.gate.open();
  b.gate.open();
  a.answered(first);
  b.answered(second);
  const Stats& stats = b.bench.stats();
  const auto sum_ns = [&](Stage stage) {
    return stats.stage[static_cast<std::size_t>(stage)].sum_ns.load();
  };
  CHECK(sum_ns(Stage::kTurn) >= 20'000'000);
  CHECK(sum_ns(Stage::kDispatch) < sum_ns(Stage::kTurn));
}

TEST(a_turn_for_nothing_is_given_back_at_once) {
  Device device;
  Function a(device, 60), b(device, 60), c(device, 60);
  b.gate.open();
  c.gate.open();
  const Ticket first = a.running();
  const Ticket given_up = b.waiting(8 * kSecondNs);
  const Ticket third = c.waiting(9 * kSecondNs);
  CHECK(b.bench.segment->cancel(given_up));
  a.gate.open();
  a.answered(first);
  c.answered(third);
  b.await(TurnState::kIdle);
  CHECK_EQ(b.order, 0);
}

// ---- ends

TEST(who_drains_waits_for_no_turn) {
  Device device;
  Function a(device, 60), b(device, 60), c(device, 60);
  c.gate.open();
  const Ticket first = a.running();
  const Ticket left = b.waiting(8 * kSecondNs);
  CHECK(b.instance().drain(kLongNs));
  b.await(TurnState::kIdle);
  const Ticket third = c.waiting(9 * kSecondNs);
  a.gate.open();
  a.answered(first);
  c.answered(third);
  CHECK(b.bench.segment->cancel(left));
}

TEST(who_stops_ends_its_turn) {
  Device device;
  Function a(device, 60), b(device, 60);
  b.gate.open();
  const Ticket first = a.running();
  const Ticket second = b.waiting();
  a.gate.open();
  a.instance().stop();
  b.answered(second);
  a.answered(first);
}

// ---- on and off

TEST(switched_off_while_some_wait) {
  Device device;
  Function a(device, 60), b(device, 60);
  const Ticket first = a.running();
  const Ticket second = b.waiting();
  device.set_limit(0);
  b.gate.await_visitor();  // beside the other
  b.gate.open();
  b.answered(second);
  a.gate.open();
  a.answered(first);
  a.await(TurnState::kIdle);
}

TEST(switched_on_while_batches_run) {
  Device device(0);
  Function a(device, 60), b(device, 60);
  const Ticket first = a.running();
  CHECK(a.state() == TurnState::kIdle);  // nothing is looked at while turns are off
  device.set_limit(100);
  a.await(TurnState::kRunning);
  const Ticket second = b.waiting();
  a.gate.open();
  b.gate.open();
  a.answered(first);
  b.answered(second);
}

TEST(switched_all_the_time_nobody_is_stuck) {
  Device device;
  Function a(device, 60), b(device, 60, 2), c(device, 30);
  for (Function* function : {&a, &b, &c}) function->gate.open();
  std::atomic<bool> done{false};
  std::thread daemon([&] {
    for (std::uint32_t i = 0; !done.load(); ++i) {
      device.set_limit(i % 2 * 100);
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < 300; ++i) {
    std::vector<std::pair<Function*, Ticket>> asked;
    for (Function* function : {&a, &b, &b, &c}) asked.emplace_back(function, function->submit());
    for (const auto& [function, ticket] : asked) function->answered(ticket);
  }
  done.store(true);
  daemon.join();
}
