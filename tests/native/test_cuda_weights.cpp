// Weights that processes share: made once, mapped read-only by others, gone with the last of them.
#include <sys/stat.h>
#include <sys/wait.h>

#include <csetjmp>
#include <csignal>

#include "cuda/weight_block.hpp"
#include "cuda_bench.hpp"

using namespace gslice;
using namespace gslice::test;
using cuda::WeightBlock;

namespace {

constexpr std::size_t kPage = 2 << 20;

std::vector<std::byte> pattern(std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 7);
  return data;
}

// Made here, filled and sealed.
std::unique_ptr<WeightBlock> filled(CudaDevice& device, std::span<const std::byte> data) {
  auto made = WeightBlock::create(device.context_of(), data.size());
  CHECK(made.ok());
  CHECK(made.value()->write(0, data).ok());
  CHECK(made.value()->seal().ok());
  return made.take();
}

std::byte* host(const WeightBlock& block) { return reinterpret_cast<std::byte*>(block.address()); }

std::int64_t live() {
  const FakeMachine& fake = FakeMachine::get();
  return fake.count("live.mapped") + fake.count("live.reserved") + fake.count("live.handles");
}

sigjmp_buf fault_place;
void on_fault(int) { siglongjmp(fault_place, 1); }

bool faults(std::byte* at) {
  struct sigaction catching{}, before{};
  catching.sa_handler = on_fault;
  sigaction(SIGSEGV, &catching, &before);
  volatile bool faulted = true;
  if (sigsetjmp(fault_place, 1) == 0) {
    *static_cast<volatile std::byte*>(at) = std::byte{1};
    faulted = false;
  }
  sigaction(SIGSEGV, &before, nullptr);
  return faulted;
}

}  // namespace

TEST(weights_are_made_once_and_mapped_by_others) {
  const auto device = open_device(1);
  const auto data = pattern(kPage + 5);
  const auto before = FakeMachine::get().count("created");
  const auto free_bytes = device->context_of()->memory_free_bytes().value();
  auto made = filled(*device, data);
  CHECK_EQ(made->bytes(), 2 * kPage);
  CHECK(made->fd() >= 0);
  auto other = WeightBlock::import(device->context_of(), made->fd(), made->bytes());
  CHECK(other.ok());
  CHECK(other.value()->sealed());
  CHECK(other.value()->address() != made->address());
  CHECK_EQ(std::memcmp(host(*other.value()), data.data(), data.size()), 0);
  CHECK_EQ(FakeMachine::get().count("created"), before + 1);
  CHECK_EQ(device->context_of()->memory_free_bytes().value(), free_bytes - 2 * kPage);
  made.reset();  // the other goes on
  CHECK_EQ(std::memcmp(host(*other.value()), data.data(), data.size()), 0);
  CHECK_EQ(device->context_of()->memory_free_bytes().value(), free_bytes - 2 * kPage);
  other.take().reset();
  CHECK_EQ(device->context_of()->memory_free_bytes().value(), free_bytes);
  CHECK_EQ(live(), 0);
}

TEST(a_descriptor_alone_keeps_weights) {
  const auto device = open_device(1);
  const auto data = pattern(100);
  const auto free_bytes = device->context_of()->memory_free_bytes().value();
  auto made = filled(*device, data);
  const std::size_t bytes = made->bytes();
  const int kept = dup(made->fd());
  made.reset();
  CHECK_EQ(live(), 0);
  CHECK_EQ(device->context_of()->memory_free_bytes().value(), free_bytes - bytes);
  {
    const auto other = WeightBlock::import(device->context_of(), kept, bytes);
    CHECK(other.ok());
    CHECK_EQ(std::memcmp(host(*other.value()), data.data(), data.size()), 0);
  }
  close(kept);
  CHECK_EQ(device->context_of()->memory_free_bytes().value(), free_bytes);
}

TEST(sealed_weights_cannot_be_written) {
  const auto device = open_device(1);
  const auto data = pattern(16);
  auto made = WeightBlock::create(device->context_of(), data.size());
  CHECK(made.ok());
  CHECK(!faults(host(*made.value())));
  CHECK(made.value()->seal().ok());
  CHECK(faults(host(*made.value())));
  CHECK(made.value()->write(0, data).code == Code::kFailedPrecondition);
  const auto other =
      WeightBlock::import(device->context_of(), made.value()->fd(), made.value()->bytes());
  CHECK(other.ok());
  CHECK(faults(host(*other.value())));
}

TEST(weights_stay_inside_their_block) {
  const auto device = open_device(1);
  const auto made = WeightBlock::create(device->context_of(), 100);
  CHECK(made.ok());
  const auto data = pattern(8);
  const std::size_t bytes = made.value()->bytes();
  CHECK(made.value()->write(bytes - 8, data).ok());
  CHECK(made.value()->write(bytes - 7, data).code == Code::kInvalidArgument);
  CHECK(made.value()->write(~std::size_t{0}, data).code == Code::kInvalidArgument);
}

TEST(private_weights_are_nobody_elses) {
  const auto device = open_device(1);
  auto made = WeightBlock::create_private(device->context_of(), 100);
  CHECK(made.ok());
  CHECK_EQ(made.value()->fd(), -1);
  CHECK(made.value()->write(0, pattern(100)).ok());
  CHECK(made.value()->seal().ok());
  CHECK(made.value()->write(0, pattern(1)).code == Code::kFailedPrecondition);
  CHECK_EQ(live(), 0);
}

TEST(what_the_driver_refuses_leaves_nothing) {
  const auto device = open_device(1);
  const auto data = pattern(16);
  const auto made = filled(*device, data);
  for (const char* entry : {"cuMemCreate", "cuMemExportToShareableHandle", "cuMemAddressReserve",
                            "cuMemMap", "cuMemSetAccess"}) {
    FakeMachine::get().plan({std::string("on=") + entry + "\taction=fail\tcode=801"});
    const auto refused = WeightBlock::create(device->context_of(), 16);
    CHECK(!refused.ok());
    CHECK(refused.status().message ==
          std::string("16 bytes: ") + entry +
              ": CUDA_ERROR_NOT_SUPPORTED (801): operation not supported");
    CHECK_EQ(live(), 2);  // those that were there
  }
  for (const char* entry :
       {"cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"}) {
    FakeMachine::get().plan({std::string("on=") + entry + "\taction=fail\tcode=801"});
    CHECK(!WeightBlock::import(device->context_of(), made->fd(), made->bytes()).ok());
    CHECK_EQ(live(), 2);
  }
  FakeMachine::get().plan();
  CHECK(!WeightBlock::import(device->context_of(), made->fd(), made->bytes() + kPage).ok());
  CHECK(!WeightBlock::import(device->context_of(), -1, made->bytes()).ok());
  CHECK_EQ(live(), 2);
  CHECK(device->context_of()->lost().ok());
}
