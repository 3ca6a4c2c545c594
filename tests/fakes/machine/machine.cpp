#include "machine.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace fake {
namespace {

constexpr std::int64_t kMemoryBytes = std::int64_t{80} << 30;

Gpu gpu_of(int index, const Fields& fields) {
  Gpu gpu;
  gpu.index = index;
  gpu.uuid = fields.text("uuid", "GPU-00000000-0000-0000-0000-00000000000" + std::to_string(index));
  gpu.parent = fields.text("parent");
  gpu.name = fields.text("name", "NVIDIA H100 80GB HBM3");
  gpu.pci_bus_id = fields.text("pci_bus_id", "00000000:1" + std::to_string(index) + ":00.0");
  gpu.sms = static_cast<int>(fields.number("sms", 132));
  gpu.sms_step = static_cast<int>(fields.number("sms_step", 2));
  gpu.capability_major = static_cast<int>(fields.number("capability_major", 9));
  gpu.capability_minor = static_cast<int>(fields.number("capability_minor", 0));
  gpu.memory_bytes = static_cast<std::uint64_t>(fields.number("memory_bytes", kMemoryBytes));
  gpu.fields = fields;
  return gpu;
}

}  // namespace

const Machine& Machine::get() {
  static const auto* machine = new Machine;
  return *machine;
}

Machine::Machine() {
  const char* directory = std::getenv("GSLICE_FAKE_GPU");
  if (directory == nullptr || *directory == '\0') {
    gpus_.push_back(gpu_of(0, Fields{}));
    return;
  }
  directory_ = directory;
  std::filesystem::create_directories(directory_ / "processes");
  if (const auto records = read_records(directory_ / "settings"); !records.empty())
    settings_ = records.front();
  for (const Fields& fields : read_records(directory_ / "gpus"))
    gpus_.push_back(gpu_of(static_cast<int>(gpus_.size()), fields));
}

std::filesystem::path Machine::process_path(int pid) const {
  return directory_.empty() ? std::filesystem::path{}
                            : directory_ / "processes" / std::to_string(pid);
}

std::vector<int> Machine::processes() const {
  std::vector<int> pids;
  if (directory_.empty()) return pids;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator(directory_ / "processes", gone))
    if (Table::owner_alive(entry.path())) pids.push_back(std::stoi(entry.path().filename()));
  return pids;
}

std::uint64_t Machine::memory_used_bytes(const Gpu& gpu) const {
  std::uint64_t used = static_cast<std::uint64_t>(gpu.fields.number("memory_reserved_bytes", 0));
  for (const int pid : processes())
    used += Table::read(process_path(pid), "memory." + gpu.uuid).value_or(0);
  return used + memory_shared_bytes(gpu);
}

std::uint64_t Machine::memory_shared_bytes(const Gpu& gpu) const {
  std::uint64_t held = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory_ / "allocations", none)) {
    if (!entry.path().filename().string().starts_with(gpu.uuid)) continue;
    const int fd = ::open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    struct stat stat{};
    // Mappings and descriptors, wherever they are, keep the lock of whoever made the file.
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
      unlink(entry.path().c_str());
    else if (fstat(fd, &stat) == 0)
      held += static_cast<std::uint64_t>(stat.st_size);
    ::close(fd);
  }
  return held;
}

}  // namespace fake
