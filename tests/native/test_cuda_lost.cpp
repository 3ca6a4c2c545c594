// Errors after which the device is lost to the process: nothing more is claimed or answered, and
// the process hears of it. Each test has a process of its own, which is lost with the device.
#include <poll.h>
#include <sys/wait.h>

#include <thread>

#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

constexpr std::int64_t kLongNs = 20'000'000'000;

// True: `body` ran in a process of its own without a failed CHECK.
bool passes_alone(const std::function<void()>& body) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    int result = 1;
    try {
      body();
      result = 0;
    } catch (const check::Failure&) {
    }
    std::filesystem::remove_all(FakeMachine::get().directory());
    _exit(result);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool readable(int fd, int timeout_ms) {
  pollfd wait{fd, POLLIN, 0};
  return poll(&wait, 1, timeout_ms) == 1;
}

// A batch is claimed and another waits when `rules` take the device away.
void check_loss(const std::vector<std::string>& rules, const std::string& said,
                const std::function<Status(Batch&)>& engine = twice_there, bool blocking = false) {
  FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 2));
  Instance& instance = serve_on(bench, device, engine, blocking);
  const Ticket doomed = bench.submit({2, 2}, {1, 2, 3, 4});
  const Ticket waiting = bench.submit({1, 2}, {5, 6});
  CHECK(!readable(instance.fault().fd(), 0));
  CHECK_EQ(instance.fault().line(), "");
  machine.plan(rules);
  CHECK(instance.start().ok());
  CHECK(readable(instance.fault().fd(), 20'000));
  if (instance.fault().line().find(said) == std::string::npos)
    check::fail(__FILE__, __LINE__, "fault: " + instance.fault().line());
  CHECK(!bench.segment->is_done(doomed));
  CHECK(!bench.segment->is_done(waiting));
  CHECK_EQ(bench.count(SlotState::kClaimed), 1u);
  CHECK_EQ(bench.count(SlotState::kQueued), 1u);
  CHECK(!instance.drain(kLongNs));  // at once
  instance.stop();
  CHECK_EQ(bench.count(SlotState::kClaimed), 1u);
  CHECK(readable(instance.fault().fd(), 0));

  // What the supervisor then does.
  std::vector<std::uint16_t> wake;
  const Requeued result = bench.segment->requeue(bench.last_index, true, wake);
  CHECK_EQ(result.requeued, 1u);
  CHECK_EQ(bench.count(SlotState::kQueued), 2u);
}

}  // namespace

TEST(a_fault_of_a_kernel) {
  CHECK(passes_alone(
      [] { check_loss({"on=host\taction=fail\tcode=700"}, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"); }));
}

TEST(a_fault_of_a_kernel_under_a_blocking_engine) {
  CHECK(passes_alone([] {
    check_loss({"on=host\taction=fail\tcode=719"}, "CUDA_ERROR_LAUNCH_FAILED (719)", twice_there,
               true);
  }));
}

TEST(a_fault_that_the_engine_meets_first) {
  CHECK(passes_alone([] {
    check_loss({"on=cuEventRecord\tnth=3\taction=fail\tcode=716\tsticky=1"}, "cuEventRecord: ",
               [](Batch&) { return Status::Error(Code::kInternal, "RuntimeError: CUDA error"); });
  }));
}

TEST(a_fault_that_a_copy_meets) {
  CHECK(passes_alone([] {
    check_loss({"on=cuMemcpyAsync\taction=fail\tcode=702\tsticky=1"},
               "cuMemcpyAsync: CUDA_ERROR_LAUNCH_TIMEOUT (702): ");
  }));
}

TEST(a_fault_before_the_lane_has_its_buffer) {
  CHECK(passes_alone(
      [] { check_loss({"on=cuMemAlloc*\taction=fail\tcode=700\tsticky=1"}, "cuMemAlloc: "); }));
}

TEST(an_mps_server_that_ends_its_client) {
  CHECK(passes_alone(
      [] { check_loss({"on=cuEventQuery\taction=fail\tcode=810\tsticky=1"}, "cuEventQuery: "); }));
}

TEST(a_stream_of_which_nobody_can_tell) {
  CHECK(passes_alone([] {
    check_loss({"on=cuEventQuery\taction=fail\tcode=1", "on=cuStreamQuery\taction=fail\tcode=400"},
               "cuStreamQuery: ");
  }));
}

TEST(a_loss_on_one_lane_ends_the_other) {
  CHECK(passes_alone([] {
    FakeMachine& machine = FakeMachine::get();
    const auto device = open_device(2);
    PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
    Instance& instance = serve_on(bench, device, twice_there);
    for (int i = 0; i < 3; ++i) bench.submit({1, 1}, {1});
    machine.plan({"on=host\tnth=2\taction=fail\tcode=700", "on=host\taction=delay\tus=20000"});
    CHECK(instance.start().ok());
    CHECK(readable(instance.fault().fd(), 20'000));
    instance.stop();
    CHECK_EQ(bench.count(SlotState::kClaimed) + bench.count(SlotState::kQueued) +
                 bench.count(SlotState::kDone),
             3u);
    CHECK(bench.count(SlotState::kClaimed) >= 1u);
  }));
}

TEST(a_loss_while_lanes_move) {
  if (FakeMachine::get().driver_version() < 12050) return;  // it has no parts to move between
  CHECK(passes_alone([] {
    FakeMachine& machine = FakeMachine::get();
    auto groups = cuda::SmGroups::split(0);
    CHECK(groups.ok());
    const auto part = [&](std::uint32_t group) {
      return cuda::GreenContext::create(groups.value(), std::array{group}).take();
    };
    const auto device = open_device(1, cuda::kStagingMaxBytes, part(0));
    PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
    Gate gate;
    Instance& instance = serve_on(bench, device, [&](Batch& batch) {
      Status status = enqueue(*batch.stream(), [&] { gate.pass(); });
      return status.ok() ? twice_there(batch) : status;
    });
    CHECK(instance.start().ok());
    CHECK(device->prepare_move(part(1)).ok());
    bench.submit({1, 1}, {21});
    gate.await_visitor();
    std::thread mover([&] { CHECK(instance.move().code == Code::kUnavailable); });
    machine.plan({"on=d2h\taction=fail\tcode=700"});
    gate.open();
    mover.join();
    CHECK(readable(instance.fault().fd(), 20'000));
    instance.stop();
    CHECK_EQ(bench.count(SlotState::kClaimed), 1u);
  }));
}
