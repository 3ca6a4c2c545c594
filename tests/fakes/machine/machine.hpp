// The machine that the fakes pretend: its GPUs and its driver, as the files in GSLICE_FAKE_GPU
// tell, and the processes that use them. Without that variable: one H100, known to this process
// alone.
//
//   settings         one record: driver_version, strict, opaque
//   gpus             one record a GPU, then one a MIG instance: uuid, parent, name, sms, ...
//   allocations/ID   memory of a GPU that processes share by descriptors; locked while one has it
//   processes/PID    the counters of a process that called cuInit (table.hpp)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fields.hpp"
#include "table.hpp"

namespace fake {

struct Gpu {
  int index = 0;
  std::string uuid;    // GPU-8-4-4-4-12, of a MIG instance MIG-...
  std::string parent;  // of a MIG instance: the UUID of its GPU; instances come after all GPUs
  std::string name;
  std::string pci_bus_id;  // 00000000:1B:00.0
  int sms = 0;
  int sms_step = 0;  // to which MPS rounds a share down
  int capability_major = 0;
  int capability_minor = 0;
  std::uint64_t memory_bytes = 0;
  Fields fields;
};

class Machine {
 public:
  // As the files are now.
  Machine();
  // As they were when this process first asked. Never destroyed: threads may outlive main().
  static const Machine& get();

  const std::filesystem::path& directory() const { return directory_; }  // empty: none
  const std::vector<Gpu>& gpus() const { return gpus_; }
  int driver_version() const { return static_cast<int>(settings_.number("driver_version", 13000)); }
  const Fields& settings() const { return settings_; }

  // Bytes that living processes hold of a GPU; nothing of them is known without a directory.
  std::uint64_t memory_used_bytes(const Gpu& gpu) const;
  // Those of `allocations` that are still in use; files of others are removed.
  std::uint64_t memory_shared_bytes(const Gpu& gpu) const;
  // Processes that live and called cuInit.
  std::vector<int> processes() const;
  std::filesystem::path process_path(int pid) const;

 private:
  std::filesystem::path directory_;
  Fields settings_;
  std::vector<Gpu> gpus_;
};

}  // namespace fake
