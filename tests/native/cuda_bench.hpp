// A pump on the fake CUDA device: engines whose "kernels" are host functions on the lane's stream,
// and the fake's own count of what was asked of it.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "cuda/cuda_device.hpp"
#include "pump/lane_layout.hpp"
#include "pump_bench.hpp"

namespace gslice::test {

using cuda::CudaDevice;

// The fake's machine, for as long as this process runs. GSLICE_TEST_DRIVER chooses the version.
class FakeMachine {
 public:
  static FakeMachine& get() {
    static FakeMachine machine;
    return machine;
  }
  ~FakeMachine() { std::filesystem::remove_all(directory_); }

  int driver_version() const { return driver_version_; }
  const std::filesystem::path& directory() const { return directory_; }

  // Of this process, as tests/fakes/machine/table.hpp lays them out; 0: never counted.
  std::int64_t count(const std::string& name) const {
    std::ifstream in(directory_ / "processes" / std::to_string(getpid()), std::ios::binary);
    for (std::array<char, 64> record; in.read(record.data(), record.size()) && record[0] != '\0';) {
      if (name != std::string(record.data(), strnlen(record.data(), 56))) continue;
      std::int64_t value = 0;
      std::memcpy(&value, record.data() + 56, sizeof value);
      return value;
    }
    return 0;
  }

  // Rules as tests/fakes/cuda/plan.hpp tells them, for what comes from now on; none: all goes well.
  void plan(const std::vector<std::string>& rules = {}) {
    ++plans_;
    std::ofstream next(directory_ / "plan.new");
    for (std::size_t i = 0; i < rules.size(); ++i)
      next << "id=" << plans_ << '.' << i << '\t' << rules[i] << '\n';
    next.close();
    std::filesystem::rename(directory_ / "plan.new", directory_ / "plan");
  }
  // Stops what matches `on`, until release().
  void hold(const std::string& on) {
    std::filesystem::create_directory(directory_ / "held");
    std::ofstream(directory_ / "held" / (std::to_string(plans_ + 1) + ".0")) << '\n';
    plan({"on=" + on + "\taction=hold"});
  }
  void release() const { std::filesystem::remove_all(directory_ / "held"); }

  template <typename Function>
  Function* entry(const char* name) const {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    CHECK(library != nullptr);
    void* found = dlsym(library, name);
    CHECK(found != nullptr);
    return reinterpret_cast<Function*>(found);
  }

 private:
  FakeMachine() {
    std::string name = (std::filesystem::temp_directory_path() / "gslice-cuda-XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr);
    directory_ = name;
    std::filesystem::create_directory(directory_ / "processes");
    if (const char* version = std::getenv("GSLICE_TEST_DRIVER"); version != nullptr)
      driver_version_ = std::stoi(version);
    std::ofstream(directory_ / "settings") << "driver_version=" << driver_version_ << '\n';
    std::ofstream(directory_ / "gpus")
        << "sms=132\tsm_groups=15\tmemory_bytes=" << (1 << 30) << '\n';
    setenv("GSLICE_FAKE_GPU", directory_.c_str(), 1);
  }

  std::filesystem::path directory_;
  int driver_version_ = 13000;
  int plans_ = 0;
};

// Runs `kernel` when the stream gets there.
inline Status enqueue(DeviceStream& stream, std::function<void()> kernel) {
  static const auto launch =
      FakeMachine::get().entry<int(std::uintptr_t, void (*)(void*), void*)>("cuLaunchHostFunc");
  auto owned = std::make_unique<std::function<void()>>(std::move(kernel));
  const int result = launch(
      stream.handle(),
      [](void* data) {
        const std::unique_ptr<std::function<void()>> run(static_cast<std::function<void()>*>(data));
        (*run)();
      },
      owned.get());
  if (result != 0) return Status::Error(Code::kInternal, "no kernel was launched");
  (void)owned.release();
  return Status::Ok();
}

// y = 2x on the device.
inline Status twice_there(Batch& batch) {
  batch.output_target(0);
  return enqueue(*batch.stream(),
                 [x = values<const float>(batch.input(0)), y = values<float>(batch.output(0))] {
                   std::ranges::transform(x, y.begin(), [](float value) { return 2 * value; });
                 });
}

class CudaEngine final : public Engine {
 public:
  CudaEngine(std::function<Status(Batch&)> body, bool blocking)
      : body_(std::move(body)), blocking_(blocking) {}
  bool blocking() const override { return blocking_; }
  Status run(Batch& batch) override { return body_(batch); }

 private:
  const std::function<Status(Batch&)> body_;
  const bool blocking_;
};

inline std::shared_ptr<CudaDevice> open_device(
    std::uint32_t lanes = 2, std::size_t staging_max_bytes = cuda::kStagingMaxBytes,
    std::shared_ptr<cuda::GreenContext> green = nullptr) {
  FakeMachine::get();
  auto device = CudaDevice::open(0, lanes, staging_max_bytes, std::move(green));
  if (!device.ok()) std::cerr << device.status().message << std::endl;
  CHECK(device.ok());
  return device.take();
}

// What an instance does on `device`; it may pull.
inline Instance& serve_on(PumpBench& bench, const std::shared_ptr<CudaDevice>& device,
                          std::unique_ptr<Engine> engine) {
  Instance& instance = bench.add_on(device, device->lane_count(), std::move(engine));
  CHECK(bench.segment->flip(kNobody, bench.last_index));
  return instance;
}
inline Instance& serve_on(PumpBench& bench, const std::shared_ptr<CudaDevice>& device,
                          std::function<Status(Batch&)> body, bool blocking = false) {
  return serve_on(bench, device, std::make_unique<CudaEngine>(std::move(body), blocking));
}

// Nothing of ours is left on the device, and nothing was asked that a GPU would not forgive.
inline void check_nothing_left() {
  for (const char* kind :
       {"streams", "events", "pinned", "registered", "device_memory", "contexts", "green_contexts"})
    CHECK_EQ(FakeMachine::get().count(std::string("live.") + kind), 0);
  for (const char* kind : {"streams", "pinned", "registered", "device_memory"})
    CHECK_EQ(FakeMachine::get().count(std::string("leaked.") + kind), 0);
  CHECK_EQ(FakeMachine::get().count("violations"), 0);
}

}  // namespace gslice::test
