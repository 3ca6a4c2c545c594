// Errors of the driver that leave the device usable: the batch that meets one fails, and no other.
#include <thread>

#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

struct Case {
  std::string on;      // the entry that fails once
  std::string answer;  // how the failed batch's begins
  std::size_t staging_bytes;
  int error = 1;
};

// Two requests in one batch, with padding.
std::vector<Ticket> submit_batch(PumpBench& bench) {
  return {bench.submit({1, 2}, {1, 2}), bench.submit({2, 2}, {3, 4, 5, 6})};
}

void check_answers(PumpBench& bench, const std::vector<Ticket>& tickets) {
  CHECK(bench.answer(tickets[0]).floats() == Floats{2, 4});
  CHECK(bench.answer(tickets[1]).floats() == Floats{6, 8, 10, 12});
}

}  // namespace

TEST(an_error_of_one_call_fails_that_batch_only) {
  FakeMachine& machine = FakeMachine::get();
  const std::vector<Case> cases{
      {"cuEventRecord", "cuEventRecord: CUDA_ERROR_INVALID_VALUE (1): ", 16384},
      {"cuEventRecord\tnth=2", "cuEventRecord: ", 16384},
      {"cuEventRecord\tnth=3", "cuEventRecord: ", 16384},
      {"cuEventRecord\tnth=4", "cuEventRecord: ", 16384},
      {"cuMemcpyAsync", "cuMemcpyAsync: ", 16384},
      {"cuMemcpyAsync\tnth=2", "cuMemcpyAsync: ", 16384},
      {"cuMemcpyBatchAsync*", "cuMemcpyBatchAsync: ", 0, 400},
      {"cuMemcpyBatchAsync*\tnth=2", "cuMemcpyBatchAsync: ", 0, 400},
      {"cuMemsetD8Async", "cuMemsetD8Async: ", 0},
      {"cuEventQuery", "cuEventQuery: ", 16384},
      {"cuEventElapsedTime*", "cuEventElapsedTime: ", 16384},
      {"cuLaunchHostFunc", "no kernel was launched", 16384},
  };
  for (const bool blocking : {false, true})
    for (const Case& c : cases) {
      const auto device = open_device(1, c.staging_bytes);
      PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
      Instance& instance = serve_on(bench, device, twice_there, blocking);
      const std::vector<Ticket> doomed = submit_batch(bench);
      machine.plan({"on=" + c.on + "\taction=fail\tcode=" + std::to_string(c.error)});
      CHECK(instance.start().ok());
      for (const Ticket ticket : doomed) {
        const Answer failed = bench.answer(ticket);
        CHECK(failed.code == Code::kInternal);
        CHECK_EQ(failed.message.substr(0, c.answer.size()), c.answer);
      }
      check_answers(bench, submit_batch(bench));
      instance.stop();
      CHECK_EQ(instance.fault().line(), "");
      CHECK(bench.idle());
      machine.plan();
    }
  check_nothing_left();
}

TEST(a_failed_batch_keeps_its_slots_until_nothing_can_reach_them) {
  FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1, 0);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
  std::atomic<bool> failed{false};
  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    if (failed.exchange(true)) return twice_there(batch);
    return Status::Error(Code::kInternal, "ValueError: unlucky");
  });
  machine.hold("h2d");
  const std::vector<Ticket> tickets = submit_batch(bench);
  CHECK(instance.start().ok());
  const InstanceEntry& entry = bench.segment->header().instances[bench.last_index];
  while (!failed.load()) std::this_thread::yield();
  // The pump has looked at the lane since.
  const std::int64_t since_ns = now_ns();
  while (entry.pump_stamp_ns.load_relaxed() < since_ns) std::this_thread::yield();
  CHECK_EQ(bench.count(SlotState::kClaimed), 2u);
  machine.release();
  for (const Ticket ticket : tickets) CHECK_EQ(bench.answer(ticket).message, "ValueError: unlucky");
  check_answers(bench, submit_batch(bench));
  machine.plan();
}

TEST(a_batch_given_up_half_way_leaves_no_copy_for_the_next) {
  FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1, 0);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
  Instance& instance = serve_on(bench, device, twice_there);
  const std::vector<Ticket> doomed = submit_batch(bench);
  machine.plan({"on=cuMemsetD8Async\taction=fail\tcode=1"});
  CHECK(instance.start().ok());
  for (const Ticket ticket : doomed) CHECK(bench.answer(ticket).code == Code::kInternal);
  machine.plan();
  const std::int64_t before = machine.count("copies.h2d") + machine.count("copies.d2h");
  // All in one batch: nothing is claimed while nothing may be pulled.
  CHECK(bench.segment->flip(bench.last_index, kNobody));
  const std::vector<Ticket> tickets = submit_batch(bench);
  CHECK(bench.segment->flip(kNobody, bench.last_index));
  check_answers(bench, tickets);
  CHECK_EQ(machine.count("copies.h2d") + machine.count("copies.d2h") - before, 4);
}

TEST(a_driver_that_refuses_several_copies_in_one_call_gets_them_one_by_one) {
  FakeMachine& machine = FakeMachine::get();
  if (machine.driver_version() < 12080) return;
  for (const int refusal : {1, 801}) {
    machine.plan(
        {"on=cuMemcpyBatchAsync*\taction=fail\ttimes=1000\tcode=" + std::to_string(refusal)});
    const auto device = open_device(1, 0);
    PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
    Instance& instance = serve_on(bench, device, twice_there);
    const std::int64_t asked = machine.count("cuMemcpyBatchAsync");
    const std::vector<Ticket> tickets = submit_batch(bench);
    CHECK(instance.start().ok());
    check_answers(bench, tickets);
    check_answers(bench, submit_batch(bench));
    instance.stop();
    CHECK_EQ(machine.count("cuMemcpyBatchAsync") - asked, 1);
    CHECK_EQ(device->counters().batched_copies.load(), 0u);
    machine.plan();
    bench.instances.clear();
    CHECK(device->close().ok());
  }
  check_nothing_left();
}

TEST(copies_that_fail_either_way_do_not_end_those_in_one_call) {
  FakeMachine& machine = FakeMachine::get();
  if (machine.driver_version() < 12080) return;
  const auto device = open_device(1, 0);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
  Instance& instance = serve_on(bench, device, twice_there);
  const std::vector<Ticket> doomed = submit_batch(bench);
  machine.plan(
      {"on=cuMemcpyBatchAsync*\taction=fail\tcode=1", "on=cuMemcpyAsync\taction=fail\tcode=1"});
  CHECK(instance.start().ok());
  for (const Ticket ticket : doomed)
    CHECK_EQ(bench.answer(ticket).message.substr(0, 15), "cuMemcpyAsync: ");
  machine.plan();
  // All in one batch: nothing is claimed while nothing may be pulled.
  CHECK(bench.segment->flip(bench.last_index, kNobody));
  const std::vector<Ticket> tickets = submit_batch(bench);
  CHECK(bench.segment->flip(kNobody, bench.last_index));
  check_answers(bench, tickets);
  instance.stop();
  CHECK(device->counters().batched_copies.load() > 0);
}

TEST(without_an_end_that_can_be_marked_the_stream_itself_is_asked) {
  FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1, 0);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8, {8}));
  Instance& instance = serve_on(bench, device, twice_there);
  const std::vector<Ticket> tickets = submit_batch(bench);
  const std::int64_t asked = machine.count("cuStreamQuery");
  machine.plan({"on=cuEventRecord\tnth=4\taction=fail\tcode=1"});
  CHECK(instance.start().ok());
  for (const Ticket ticket : tickets) CHECK(bench.answer(ticket).code == Code::kInternal);
  CHECK(machine.count("cuStreamQuery") > asked);
  machine.plan();
}

TEST(a_device_that_cannot_be_prepared_is_refused_and_leaves_nothing) {
  FakeMachine& machine = FakeMachine::get();
  for (const auto& [on, code] : std::vector<std::pair<std::string, Code>>{
           {"cuDevicePrimaryCtxRetain\taction=fail\tcode=2", Code::kResourceExhausted},
           {"cuCtxSetCurrent\taction=fail\tcode=1", Code::kInternal},
           {"cuDeviceGetAttribute\taction=fail\tcode=1", Code::kInternal},
           {"cuStreamCreate*\tnth=2\taction=fail\tcode=2", Code::kResourceExhausted},
           {"cuEventCreate\tnth=3\taction=fail\tcode=2", Code::kResourceExhausted},
           {"cuMemHostAlloc\tnth=2\taction=fail\tcode=2", Code::kResourceExhausted}}) {
    machine.plan({"on=" + on});
    const auto device = CudaDevice::open(0, 2, cuda::kStagingMaxBytes);
    CHECK(!device.ok());
    CHECK(device.status().code == code);
    machine.plan();
    check_nothing_left();
  }
}

TEST(slots_that_cannot_be_registered_stop_the_start) {
  FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  Instance& instance = serve_on(bench, device, twice_there);
  machine.plan({"on=cuMemHostRegister*\taction=fail\tcode=2"});
  const Status status = instance.start();
  CHECK(status.code == Code::kResourceExhausted);
  CHECK(status.message.find("bytes: cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY (2)") !=
        std::string::npos);
  machine.plan();
  bench.instances.clear();
  CHECK(device->close().ok());
  check_nothing_left();
}

TEST(mps_refusals_say_what_they_are) {
  FakeMachine& machine = FakeMachine::get();
  machine.plan({"on=cuDevicePrimaryCtxRetain\taction=fail\tcode=805"});
  const auto device = CudaDevice::open(0, 1, 0);
  CHECK(device.status().code == Code::kUnavailable);
  CHECK(device.status().message.find("MPS daemon") != std::string::npos);
  machine.plan();
}
