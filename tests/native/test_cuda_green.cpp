// Parts of a device: its groups of SMs, green contexts of several, and lanes that move from one
// part to another while they serve.
#include <thread>

#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;
using cuda::GreenContext;
using cuda::SmGroups;

namespace {

using Floats = std::vector<float>;
using Groups = std::vector<std::uint32_t>;

bool is_there() { return FakeMachine::get().driver_version() >= 12050; }

std::shared_ptr<SmGroups> split() {
  FakeMachine::get();
  auto groups = SmGroups::split(0);
  if (!groups.ok()) std::cerr << groups.status().message << std::endl;
  CHECK(groups.ok());
  return groups.take();
}

std::shared_ptr<GreenContext> part(const std::shared_ptr<SmGroups>& groups, const Groups& chosen) {
  auto green = GreenContext::create(groups, chosen);
  if (!green.ok()) std::cerr << green.status().message << std::endl;
  CHECK(green.ok());
  return green.take();
}

// The green context that a stream is of, as the driver has it.
void* green_of(std::uintptr_t stream) {
  static const auto ask =
      FakeMachine::get().entry<int(std::uintptr_t, void**, void**)>("cuStreamGetCtx_v2");
  void *context = nullptr, *green = nullptr;
  CHECK_EQ(ask(stream, &context, &green), 0);
  return green;
}

// Twice its input, and where each batch ran.
class PlacedEngine final : public Engine {
 public:
  explicit PlacedEngine(bool blocking) : blocking_(blocking) {}
  bool blocking() const override { return blocking_; }
  Status run(Batch& batch) override {
    places_.fetch_or(1u << batch.place());
    if (blocked_.load() == static_cast<int>(batch.place()))
      if (Status status = enqueue(*batch.stream(), [this] { gate.pass(); }); !status.ok())
        return status;
    return twice_there(batch);
  }
  unsigned take_places() { return places_.exchange(0); }
  void block(int place) { blocked_.store(place); }

  Gate gate;

 private:
  const bool blocking_;
  std::atomic<unsigned> places_{0};
  std::atomic<int> blocked_{-1};
};

// A pump on three groups, with spare lanes on `chosen`.
struct Movable {
  explicit Movable(std::uint32_t lanes = 2, bool blocking = false,
                   const Groups& chosen = {0, 1, 2, 5}) {
    auto owned = std::make_unique<PlacedEngine>(blocking);
    engine = owned.get();
    instance = &serve_on(
        bench, device = open_device(lanes, cuda::kStagingMaxBytes, part(groups, {0, 1, 2})),
        std::move(owned));
    CHECK(instance->start().ok());
    CHECK(device->prepare_move(part(groups, chosen)).ok());
  }
  void check_serves(int requests = 6) {
    for (int i = 0; i < requests; ++i) {
      const auto x = static_cast<float>(i);
      CHECK(bench.answer(bench.submit({1, 1}, {x})).floats() == Floats{2 * x});
    }
  }
  void close() {
    instance->stop();
    CHECK(bench.idle());
    CHECK(device->close().ok());
  }

  std::shared_ptr<SmGroups> groups = split();
  PumpBench bench{signature({-1, 1}, {-1, 1}, 1)};
  std::shared_ptr<CudaDevice> device;
  PlacedEngine* engine = nullptr;
  Instance* instance = nullptr;
};

}  // namespace

// ---- groups ------------------------------------------------------------------------------------

TEST(a_driver_without_green_contexts_says_so) {
  if (is_there()) return;
  FakeMachine::get();
  const auto groups = SmGroups::split(0);
  CHECK(groups.status().code == Code::kFailedPrecondition);
  CHECK(groups.status().message.starts_with("the NVIDIA driver has no green contexts"));
  check_nothing_left();
}

TEST(a_device_is_split_into_its_smallest_groups) {
  if (!is_there()) return;
  {
    const auto groups = split();
    CHECK_EQ(groups->group_sms(), 8u);
    CHECK_EQ(groups->count(), 15u);
    CHECK_EQ(groups->sms(), 132u);
  }
  CHECK(SmGroups::split(7).status().code == Code::kFailedPrecondition);
  check_nothing_left();
}

TEST(a_green_context_has_the_sms_of_its_groups) {
  if (!is_there()) return;
  const auto groups = split();
  CHECK_EQ(part(groups, {14})->sms(), 8u);
  CHECK_EQ(part(groups, {9, 0, 3})->sms(), 24u);
  for (const auto& [chosen, message] :
       {std::pair{Groups{}, "needs a group"}, std::pair{Groups{1, 2, 1}, "named twice"},
        std::pair{Groups{3, 15}, "no group 15 of SMs; there are 15"}}) {
    const auto refused = GreenContext::create(groups, chosen);
    CHECK(refused.status().code == Code::kInvalidArgument);
    CHECK(refused.status().message.find(message) != std::string::npos);
  }
}

TEST(what_the_driver_refuses_leaves_nothing) {
  if (!is_there()) return;
  FakeMachine& machine = FakeMachine::get();
  for (const char* entry : {"cuDeviceGetDevResource", "cuDevSmResourceSplitByCount",
                            "cuDevSmResourceSplitByCount\tnth=2"}) {
    machine.plan({std::string("on=") + entry + "\taction=fail\tcode=915"});
    const auto groups = SmGroups::split(0);
    CHECK(groups.status().code == Code::kInternal);
    CHECK(groups.status().message.find("CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION (915)") !=
          std::string::npos);
    machine.plan();
  }
  {
    const auto groups = split();
    for (const char* entry :
         {"cuDevResourceGenerateDesc", "cuGreenCtxCreate", "cuGreenCtxGetDevResource"}) {
      machine.plan({std::string("on=") + entry + "\taction=fail\tcode=2"});
      CHECK(GreenContext::create(groups, Groups{1}).status().code == Code::kResourceExhausted);
      machine.plan();
    }
    const auto green = part(groups, {0, 1});
    machine.plan({"on=cuGreenCtxStreamCreate\taction=fail\tcode=2\tnth=2"});
    const auto device = CudaDevice::open(0, 2, 0, green);
    CHECK(device.status().code == Code::kResourceExhausted);
    CHECK(device.status().message.starts_with("cuGreenCtxStreamCreate: "));
    machine.plan();
  }
  check_nothing_left();
}

// ---- lanes -------------------------------------------------------------------------------------

TEST(lanes_run_on_a_part_of_the_device) {
  if (!is_there()) return;
  {
    const auto groups = split();
    const auto first = open_device(2, cuda::kStagingMaxBytes, part(groups, {0, 1}));
    const auto second = open_device(1, cuda::kStagingMaxBytes, part(groups, {2}));
    const auto whole = open_device(1);
    CHECK_EQ(first->sms(), 16u);
    CHECK_EQ(second->sms(), 8u);
    CHECK_EQ(whole->sms(), 132u);
    void* const green = green_of(first->lane(0)->handle());
    CHECK(green != nullptr);
    CHECK(green_of(first->lane(1)->handle()) == green);
    CHECK(green_of(second->lane(0)->handle()) != green);
    CHECK(green_of(whole->lane(0)->handle()) == nullptr);
    PumpBench bench(signature({-1, 1}, {-1, 1}, 4)), other(signature({-1, 1}, {-1, 1}, 4));
    CHECK(serve_on(bench, first, twice_there).start().ok());
    CHECK(serve_on(other, second, twice_there, true).start().ok());
    CHECK(bench.answer(bench.submit({1, 1}, {21})).floats() == Floats{42});
    CHECK(other.answer(other.submit({1, 1}, {4})).floats() == Floats{8});
  }
  check_nothing_left();
}

// ---- moves -------------------------------------------------------------------------------------

TEST(lanes_move_while_they_serve_and_leave_nothing_behind) {
  if (!is_there()) return;
  for (const bool blocking : {false, true}) {
    {
      Movable movable(2, blocking);
      CudaDevice& device = *movable.device;
      const std::int64_t streams = FakeMachine::get().count("live.streams");
      movable.check_serves();
      CHECK_EQ(movable.engine->take_places() & ~0b0011u, 0u);
      CHECK_EQ(device.sms(), 24u);
      CHECK(movable.instance->move().ok());
      CHECK_EQ(device.sms(), 32u);
      CHECK_EQ(device.first_place(), 2u);
      CHECK(device.has_lane(0));  // until whoever has graphs of it has given them back
      device.drop_spare();
      CHECK(!device.has_lane(0) && device.has_lane(2) && device.has_lane(3));
      CHECK_EQ(FakeMachine::get().count("live.streams"), streams - 2);
      CHECK_EQ(FakeMachine::get().count("live.green_contexts"), 1);
      movable.check_serves();
      CHECK_EQ(movable.engine->take_places() & ~0b1100u, 0u);

      // And back, to fewer.
      CHECK(device.prepare_move(part(movable.groups, {1})).ok());
      CHECK(movable.instance->move().ok());
      CHECK_EQ(device.sms(), 8u);
      movable.check_serves();
      CHECK_EQ(movable.engine->take_places() & ~0b0011u, 0u);
      movable.close();
    }
    check_nothing_left();
  }
}

TEST(a_batch_ends_where_it_began_and_holds_up_no_other) {
  if (!is_there()) return;
  {
    Movable movable;
    movable.engine->block(0);
    const Ticket slow = movable.bench.submit({1, 1}, {21});
    movable.engine->gate.await_visitor();
    std::atomic<bool> moved{false};
    std::thread mover([&] {
      CHECK(movable.instance->move().ok());
      moved.store(true);
    });
    // Whatever still began in lane 1 of the old part: from some batch on it is the new part's.
    while ((movable.engine->take_places() & 0b1000u) == 0) movable.check_serves(1);
    CHECK(!moved.load());
    CHECK_EQ(FakeMachine::get().count("live.green_contexts"), 2);
    movable.engine->gate.open();
    CHECK(movable.bench.answer(slow).floats() == Floats{42});
    mover.join();
    movable.device->drop_spare();
    CHECK_EQ(FakeMachine::get().count("live.green_contexts"), 1);
    movable.check_serves();
    CHECK_EQ(movable.engine->take_places() & ~0b1100u, 0u);
    movable.close();
  }
  check_nothing_left();
}

TEST(lanes_move_under_load) {
  if (!is_there()) return;
  {
    Movable movable(2, true);
    std::atomic<bool> done{false};
    std::thread mover([&] {
      for (std::uint32_t i = 0; i < 20; ++i) {
        CHECK(movable.instance->move().ok());
        movable.device->drop_spare();
        CHECK(movable.device->prepare_move(part(movable.groups, {i % 15})).ok());
      }
      done.store(true);
    });
    while (!done.load()) movable.check_serves(8);
    mover.join();
    movable.close();
  }
  check_nothing_left();
}

TEST(what_cannot_move_says_so) {
  if (!is_there()) return;
  {
    Movable movable;
    CudaDevice& device = *movable.device;
    CHECK_EQ(device.prepare_move(part(movable.groups, {4})).message,
             "the device has spare lanes already");
    device.drop_spare();
    CHECK_EQ(movable.instance->move().message, "the device has no lanes to move to");
    movable.check_serves();
    movable.close();
    CHECK_EQ(movable.instance->move().message, "the pump does not run");
    CHECK_EQ(device.prepare_move(part(movable.groups, {4})).message, "the device is closed");

    const auto whole = open_device(1);
    CHECK_EQ(whole->prepare_move(part(movable.groups, {4})).message,
             "only lanes on a part of a device can move to another");
    PumpBench cpu(signature({-1, 1}, {-1, 1}, 1));
    Instance& instance = cpu.serve(twice);
    CHECK_EQ(instance.move().message, "the pump does not run");
    CHECK(instance.start().ok());
    CHECK_EQ(instance.move().message, "this device has nowhere to move to");
  }
  check_nothing_left();
}

TEST(spare_lanes_that_cannot_be_made_leave_what_serves) {
  if (!is_there()) return;
  FakeMachine& machine = FakeMachine::get();
  {
    Movable movable;
    movable.device->drop_spare();
    const auto green = part(movable.groups, {7});
    machine.plan({"on=cuGreenCtxStreamCreate\taction=fail\tcode=2\tnth=2"});
    CHECK(movable.device->prepare_move(green).code == Code::kResourceExhausted);
    machine.plan();
    movable.check_serves();
    CHECK(movable.device->prepare_move(green).ok());
    CHECK(movable.instance->move().ok());
    movable.check_serves();
    movable.close();
  }
  check_nothing_left();
}

TEST(an_instance_ends_with_spare_lanes_that_nobody_moved_to) {
  if (!is_there()) return;
  {
    Movable movable;
    movable.check_serves(1);
    movable.close();
  }
  check_nothing_left();
}
