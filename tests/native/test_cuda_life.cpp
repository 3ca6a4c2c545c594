// The life of a CUDA device, and what engines may do with a batch that lies on one.
#include <thread>

#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

using Floats = std::vector<float>;

constexpr std::int64_t kLongNs = 20'000'000'000;

// Memory of the device that is not the lane's, as the allocator of an engine has it.
std::unique_ptr<cuda::DeviceBuffer> floats_there(CudaDevice& device, std::size_t count) {
  auto created = cuda::DeviceBuffer::create(device.context_of(), count * sizeof(float));
  CHECK(created.ok());
  return created.take();
}

}  // namespace

// ---- the device --------------------------------------------------------------------------------

TEST(a_device_says_what_it_is) {
  const auto device = open_device(3);
  const cuda::DeviceInfo& info = device->info();
  CHECK_EQ(info.ordinal, 0);
  CHECK_EQ(info.name, "NVIDIA H100 80GB HBM3");
  CHECK_EQ(info.uuid, "GPU-00000000-0000-0000-0000-000000000000");
  CHECK_EQ(info.driver_version, FakeMachine::get().driver_version());
  CHECK_EQ(info.sm_count, 132);
  CHECK_EQ(info.compute_major, 9);
  CHECK_EQ(info.compute_minor, 0);
  CHECK_EQ(info.memory_bytes, std::size_t{1} << 30);
  CHECK_EQ(device->lane_count(), 3u);
  CHECK(device->lane(0)->handle() != device->lane(1)->handle());
  const auto free_bytes = device->context_of()->memory_free_bytes();
  CHECK(free_bytes.ok());
  CHECK(free_bytes.value() <= info.memory_bytes);
}

TEST(a_device_that_is_not_there_is_refused) {
  FakeMachine::get();
  const auto device = CudaDevice::open(7, 1, 0);
  CHECK(device.status().code == Code::kFailedPrecondition);
  CHECK(
      device.status().message.starts_with("cuda:7: cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101)"));
}

TEST(too_little_memory_is_said_with_its_size) {
  const auto device = open_device(1);
  const auto buffer = cuda::DeviceBuffer::create(device->context_of(), std::size_t{2} << 30);
  CHECK(buffer.status().code == Code::kResourceExhausted);
  CHECK(buffer.status().message.starts_with(
      "2147483648 bytes: cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): "));
}

TEST(a_lane_without_memory_fails_the_batch_and_serves_on) {
  constexpr std::size_t kWidth = 2048;
  const auto device = open_device(1);
  PumpBench bench(signature({-1, kWidth}, {-1, kWidth}, 1), 32 << 10);
  Instance& instance = serve_on(bench, device, twice_there);
  auto hog = floats_there(*device, device->context_of()->memory_free_bytes().value() / 4 - 1024);
  CHECK(instance.start().ok());
  const Answer failed = bench.answer(bench.submit({1, kWidth}, Floats(kWidth, 1)));
  CHECK(failed.code == Code::kResourceExhausted);
  CHECK_EQ(failed.message, "no memory for a lane buffer of 16384 bytes");
  hog.reset();
  CHECK(bench.answer(bench.submit({1, kWidth}, Floats(kWidth, 1))).floats() == Floats(kWidth, 2));
  instance.stop();
  CHECK_EQ(instance.fault().line(), "");
  CHECK(bench.idle());
}

TEST(a_device_closes_after_its_instance) {
  const auto device = open_device(2);
  {
    PumpBench bench(signature({-1, 1}, {-1, 1}, 4));
    Instance& instance = serve_on(bench, device, twice_there);
    CHECK(instance.start().ok());
    CHECK(bench.answer(bench.submit({1, 1}, {1})).floats() == Floats{2});
    const Status refused = device->close();
    CHECK(refused.code == Code::kFailedPrecondition);
    CHECK_EQ(refused.message, "the device is in use; stop the instance first");
    CHECK(bench.answer(bench.submit({1, 1}, {2})).floats() == Floats{4});
    instance.stop();
    CHECK(device->close().ok());
    CHECK(device->closed());
    CHECK(device->close().ok());
    CHECK_EQ(device->counters().copies.load(), 4u);
  }
  check_nothing_left();
}

TEST(an_instance_that_goes_gives_its_slots_back) {
  const auto device = open_device(1);
  for (int i = 0; i < 3; ++i) {
    PumpBench bench(signature({-1, 1}, {-1, 1}, 4));
    Instance& instance = serve_on(bench, device, twice_there);
    CHECK(instance.start().ok());
    CHECK(bench.answer(bench.submit({1, 1}, {1})).floats() == Floats{2});
    CHECK_EQ(FakeMachine::get().count("live.registered"), 1);
    bench.instances.clear();
    CHECK_EQ(FakeMachine::get().count("live.registered"), 0);
  }
  CHECK(device->close().ok());
  check_nothing_left();
}

TEST(a_device_serves_one_instance_at_a_time) {
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 1}, {-1, 1}, 4)), other(signature({-1, 1}, {-1, 1}, 4));
  CHECK(serve_on(bench, device, twice_there).start().ok());
  const Status second = serve_on(other, device, twice_there).start();
  CHECK(second.code == Code::kFailedPrecondition);
  CHECK_EQ(second.message, "the device serves another instance");
}

TEST(more_lanes_than_the_device_has_are_refused_and_leave_nothing_open) {
  const auto device = open_device(1);
  {
    PumpBench bench(signature({-1, 1}, {-1, 1}, 4));
    Instance& instance = bench.add_on(device, 2, std::make_unique<CudaEngine>(twice_there, false));
    const Status status = instance.start();
    CHECK(status.code == Code::kFailedPrecondition);
    CHECK_EQ(status.message, "the device has 1 lanes, not 2");
  }
  CHECK(device->close().ok());
  check_nothing_left();
}

TEST(stop_and_drain_wait_for_what_is_on_the_stream) {
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 1}, {-1, 1}, 1));
  Gate gate;
  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    Status status = enqueue(*batch.stream(), [&] { gate.pass(); });
    return status.ok() ? twice_there(batch) : status;
  });
  CHECK(instance.start().ok());
  const Ticket ticket = bench.submit({1, 1}, {21});
  gate.await_visitor();
  CHECK(!instance.drain(0));
  gate.open();
  CHECK(instance.drain(kLongNs));
  instance.stop();
  CHECK(bench.answer(ticket).floats() == Floats{42});
  CHECK(bench.idle());
}

// ---- outputs -----------------------------------------------------------------------------------

TEST(an_output_elsewhere_on_the_device_is_copied_into_place) {
  const auto device = open_device(1);
  const auto elsewhere = floats_there(*device, 8);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 4));
  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    const std::size_t bytes = batch.input(0).bytes;
    Status status = enqueue(*batch.stream(), [&, x = values<const float>(batch.input(0))] {
      std::ranges::transform(x, reinterpret_cast<float*>(elsewhere->data()),
                             [](float v) { return v + 1; });
    });
    if (!status.ok()) return status;
    return batch.set_device_output(0, DType::kFp32, batch.input(0).shape.view(),
                                   {elsewhere->data(), bytes});
  });
  const Ticket a = bench.submit({1, 2}, {1, 2}), b = bench.submit({2, 2}, {3, 4, 5, 6});
  CHECK(instance.start().ok());
  CHECK(bench.answer(a).floats() == Floats{2, 3});
  CHECK(bench.answer(b).floats() == Floats{4, 5, 6, 7});
}

TEST(outputs_by_value_come_from_the_host) {
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 2}, {-1, 2}, 4, {4}));
  Instance& instance = serve_on(
      bench, device,
      [](Batch& batch) {
        Floats y(batch.bucket() * 2, 7);
        Status status =
            batch.set_output(0, DType::kFp32, Dims{batch.bucket(), 2}, std::as_bytes(std::span(y)));
        y.assign(y.size(), -1);  // the batch has its own copy by now
        return status;
      },
      true);
  CHECK(instance.start().ok());
  for (int i = 0; i < 3; ++i)
    CHECK(bench.answer(bench.submit({2, 2}, {1, 2, 3, 4})).floats() == Floats(4, 7));
  const std::uint64_t allocations = device->counters().allocations.load();
  for (int i = 0; i < 5; ++i) bench.answer(bench.submit({2, 2}, {1, 2, 3, 4}));
  CHECK_EQ(device->counters().allocations.load(), allocations);
  CHECK_EQ(device->counters().synchronise_calls.load(), 0u);
}

TEST(outputs_of_unknown_shape_are_stored_when_the_stream_got_there) {
  const auto device = open_device(2);
  const auto wide = floats_there(*device, 4096);
  for (const bool blocking : {false, true}) {
    PumpBench bench(signature({-1, 1}, {-1, -1}, 4, {4}));
    constexpr std::int64_t kWidth = 1024;
    Instance& instance = serve_on(
        bench, device,
        [&](Batch& batch) {
          Status status = enqueue(*batch.stream(), [&, x = values<const float>(batch.input(0))] {
            auto* y = reinterpret_cast<float*>(wide->data());
            for (std::size_t row = 0; row < x.size(); ++row)
              std::fill_n(y + row * kWidth, kWidth, x[row]);
          });
          if (!status.ok()) return status;
          return batch.set_device_output(0, DType::kFp32, Dims{batch.bucket(), kWidth},
                                         {wide->data(), batch.bucket() * kWidth * sizeof(float)});
        },
        blocking);
    const Ticket a = bench.submit({1, 1}, {1}), b = bench.submit({2, 1}, {2, 3});
    CHECK(instance.start().ok());
    const Answer first = bench.answer(a);
    CHECK_EQ(first.message, "");
    CHECK(first.dims == Dims{1, kWidth});
    CHECK(first.floats() == Floats(kWidth, 1));
    Floats expected(2 * kWidth, 2);
    std::fill_n(expected.begin() + kWidth, kWidth, 3.0F);
    CHECK(bench.answer(b).floats() == expected);
    instance.stop();
    CHECK(bench.idle());
  }
  CHECK_EQ(device->counters().synchronise_calls.load(), 0u);
}

TEST(what_an_engine_gives_on_the_device_is_checked) {
  const auto device = open_device(1);
  const auto there = floats_there(*device, 8);
  struct Case {
    DType dtype;
    Dims dims;
    std::size_t count;
    std::string message;
  };
  const std::vector<Case> cases{
      {DType::kInt32, {2, 2}, 4, "output 'y' is INT32, the signature says FP32"},
      {DType::kFp32, {2, 3}, 6, "output 'y' has shape [2, 3], the signature says [-1, 2]"},
      {DType::kFp32, {1, 2}, 2, "output 'y' has 1 rows, the batch has 2"},
  };
  for (const Case& c : cases) {
    PumpBench bench(signature({-1, 2}, {-1, 2}, 4));
    Instance& instance = serve_on(bench, device, [&](Batch& batch) {
      return batch.set_device_output(0, c.dtype, c.dims, {there->data(), c.count * sizeof(float)});
    });
    CHECK(instance.start().ok());
    const Answer answer = bench.answer(bench.submit({2, 2}, {1, 2, 3, 4}));
    CHECK(answer.code == Code::kInternal);
    CHECK_EQ(answer.message, c.message);
    CHECK(bench.idle());
  }
}

// ---- before serving ----------------------------------------------------------------------------

TEST(a_batch_of_warm_up_lies_where_served_ones_will) {
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 3}, {-1, 3}, 8, {4, 8}));
  struct Nowhere final : OutputSink {
    Status store(std::uint32_t, const Shape&, std::span<const std::byte>) override {
      return Status::Error(Code::kInternal, "nothing is stored here");
    }
  } nowhere;
  Batch warm(bench.signature, 0, nowhere);
  warm.reset(4, 4);
  bool grown = false;
  CHECK(device->lane(0)->begin(warm).ok());
  const std::size_t bytes =
      *lane_bytes(bench.signature, 8, [](std::uint32_t) { return 8 * 3 * sizeof(float); });
  std::byte* const buffer = device->lane(0)->buffer(bytes, &grown).get();
  CHECK(grown);
  const Floats x(12, 5);
  CHECK(device->lane(0)->copy_from_host(buffer, std::as_bytes(std::span(x))).ok());
  CHECK(device->lane(0)->finish(warm).ok());
  CHECK(std::memcmp(buffer, x.data(), x.size() * sizeof(float)) == 0);
  device->lane(0)->end(warm);

  Instance& instance = serve_on(bench, device, [&](Batch& batch) {
    const bool in_place =
        batch.input(0).data == buffer &&
        batch.output(0).data == buffer + align_up(batch.input(0).bytes, kLaneAlign);
    return in_place ? twice_there(batch) : Status::Error(Code::kInternal, "it has moved");
  });
  CHECK(instance.start().ok());
  for (const std::int64_t rows : {4, 8, 1})
    CHECK_EQ(bench.answer(bench.submit({rows, 3}, Floats(static_cast<std::size_t>(rows) * 3, 1)))
                 .message,
             "");
  CHECK_EQ(instance.counters().lane_buffer_allocations.load(), 0u);
  CHECK(device->lane(0)->begin(warm).code == Code::kFailedPrecondition);
}

TEST(a_captured_graph_is_replayed_for_every_batch) {
  const FakeMachine& machine = FakeMachine::get();
  const auto device = open_device(1);
  PumpBench bench(signature({-1, 4}, {-1, 4}, 4, {4}));
  cuda::CudaLane& lane = *device->lane(0);
  struct Nowhere final : OutputSink {
    Status store(std::uint32_t, const Shape&, std::span<const std::byte>) override {
      return Status::Ok();
    }
  } nowhere;
  Batch warm(bench.signature, 0, nowhere);
  warm.reset(4, 4);
  CHECK(lane.begin(warm).ok());
  bool grown = false;
  constexpr std::size_t kBytes = 4 * 4 * sizeof(float);
  std::byte* const buffer = lane.buffer(2 * kLaneAlign, &grown).get();

  // The fake runs host functions for every replay: a graph's one has to be its own owner.
  struct Kernel {
    const float* x;
    float* y;
  } kernel{reinterpret_cast<float*>(buffer), reinterpret_cast<float*>(buffer + kLaneAlign)};
  const auto begin = machine.entry<int(std::uintptr_t, int)>("cuStreamBeginCapture_v2");
  const auto end = machine.entry<int(std::uintptr_t, void**)>("cuStreamEndCapture");
  const auto instantiate =
      machine.entry<int(void**, void*, unsigned long long)>("cuGraphInstantiateWithFlags");
  const auto launch =
      machine.entry<int(std::uintptr_t, void (*)(void*), void*)>("cuLaunchHostFunc");
  void* graph = nullptr;
  void* executable = nullptr;
  CHECK_EQ(begin(lane.handle(), 0), 0);
  CHECK_EQ(launch(
               lane.handle(),
               [](void* data) {
                 const Kernel& of = *static_cast<Kernel*>(data);
                 for (std::size_t i = 0; i < kBytes / sizeof(float); ++i) of.y[i] = 2 * of.x[i];
               },
               &kernel),
           0);
  CHECK_EQ(end(lane.handle(), &graph), 0);
  CHECK_EQ(instantiate(&executable, graph, 0), 0);
  lane.end(warm);

  {
    Instance& instance = serve_on(bench, device, [&](Batch& batch) {
      batch.output_target(0);
      return batch.stream()->launch(executable);
    });
    CHECK(instance.start().ok());
    for (const std::int64_t rows : {1, 4, 3}) {
      const Floats x(static_cast<std::size_t>(rows) * 4, static_cast<float>(rows));
      CHECK(bench.answer(bench.submit({rows, 4}, x)).floats() ==
            Floats(x.size(), 2 * static_cast<float>(rows)));
    }
    instance.stop();
  }
  CHECK_EQ(device->counters().graph_launches.load(), 3u);
  CHECK_EQ(machine.count("graph_launches"), 3);
  CHECK_EQ(machine.entry<int(void*)>("cuGraphExecDestroy")(executable), 0);
  CHECK_EQ(machine.entry<int(void*)>("cuGraphDestroy")(graph), 0);
}
