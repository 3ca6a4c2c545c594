// The data path over device memory that this process cannot reach, as a GPU's: whoever in the pump,
// its lanes or its device follows a device address faults.
#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// Before the driver is first asked.
void make_memory_opaque() {
  std::ofstream(FakeMachine::get().directory() / "settings")
      << "driver_version=" << FakeMachine::get().driver_version() << "\topaque=1\n";
}

// y = x, by the device's own copy.
Status same_there(Batch& batch) {
  static const auto copy =
      FakeMachine::get().entry<int(std::uintptr_t, std::uintptr_t, std::size_t, std::uintptr_t)>(
          "cuMemcpyDtoDAsync_v2");
  const auto x = values<const float>(batch.input(0));
  const auto to = reinterpret_cast<std::uintptr_t>(batch.output_target(0));
  const auto from = reinterpret_cast<std::uintptr_t>(x.data());
  return copy(to, from, x.size_bytes(), batch.stream()->handle()) == 0
             ? Status::Ok()
             : Status::Error(Code::kInternal, "the driver refused the copy");
}

}  // namespace

TEST(no_byte_of_the_device_is_touched_by_the_host) {
  make_memory_opaque();
  for (const std::size_t staging_max_bytes : {std::size_t{0}, cuda::kStagingMaxBytes})
    for (const bool blocking : {false, true}) {
      const auto device = open_device(2, staging_max_bytes);
      {
        PumpBench bench(signature({-1, 3}, {-1, 3}, 8, {4, 8}));
        Instance& instance = serve_on(bench, device, same_there, blocking);
        CHECK(instance.start().ok());
        for (const std::int64_t rows : {8, 3, 1, 5}) {
          std::vector<float> x(static_cast<std::size_t>(rows * 3));
          for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rows * 100 + i);
          const Answer answer = bench.answer(bench.submit({rows, 3}, x));
          CHECK_EQ(answer.message, "");
          CHECK(answer.floats() == x);
        }
      }
      CHECK(device->close().ok());
    }
  check_nothing_left();
}

// Otherwise the test above shows nothing: a system call says it without the fault.
TEST(the_host_cannot_read_device_memory) {
  make_memory_opaque();
  const auto device = open_device(1);
  const auto allocate =
      FakeMachine::get().entry<int(std::uintptr_t*, std::size_t)>("cuMemAlloc_v2");
  std::uintptr_t address = 0;
  CHECK_EQ(allocate(&address, 4096), 0);
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  CHECK_EQ(write(ends[1], reinterpret_cast<const void*>(address), 1), -1);
  CHECK_EQ(errno, EFAULT);
  close(ends[0]), close(ends[1]);
  CHECK_EQ(FakeMachine::get().entry<int(std::uintptr_t)>("cuMemFree_v2")(address), 0);
  CHECK(device->close().ok());
}
