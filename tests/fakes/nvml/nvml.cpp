// NVML as nvidia-ml-py asks it, about the machine that the files of GSLICE_FAKE_GPU tell: read anew
// at every question, so that a test can change what a GPU does while somebody watches it. A setting
// named as a function makes that function return that error.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>

#include "../machine/machine.hpp"

#define FAKE_NVML extern "C" __attribute__((visibility("default")))

namespace {

using fake::Gpu;
using fake::Machine;

enum nvmlReturn : int {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
  NVML_ERROR_GPU_IS_LOST = 15,
};

// A device's handle is its index and one more.
using nvmlDevice = std::uintptr_t;

struct nvmlMemory {
  unsigned long long total, free, used;
};
struct nvmlMemory_v2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};
struct nvmlUtilization {
  unsigned gpu, memory;
};
struct nvmlPciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};
struct nvmlDeviceAttributes {
  unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas;
  unsigned gpu_instance_slices, compute_instance_slices;
  unsigned long long memory_mib;
};
struct nvmlProcessInfo {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

constexpr unsigned kMigInstances = 7;  // at most, on one GPU
constexpr unsigned kNoInstance = 0xFFFFFFFF;
int references = 0;
std::mutex mutex;

nvmlReturn planned(const Machine& machine, const char* function) {
  return static_cast<nvmlReturn>(machine.settings().number(function, NVML_SUCCESS));
}

// Calls `ask(machine, gpu)` unless the question cannot be asked.
template <typename Ask>
nvmlReturn about(const char* function, nvmlDevice device, Ask ask) {
  const std::lock_guard lock(mutex);
  if (references == 0) return NVML_ERROR_UNINITIALIZED;
  const Machine machine;
  if (const nvmlReturn error = planned(machine, function)) return error;
  if (device == 0 || device > machine.gpus().size()) return NVML_ERROR_INVALID_ARGUMENT;
  const Gpu& gpu = machine.gpus()[device - 1];
  if (gpu.fields.number("lost", 0) != 0) return NVML_ERROR_GPU_IS_LOST;
  return ask(machine, gpu);
}

// One number of a GPU's record; a GPU without it does not support the question.
template <typename T>
nvmlReturn number(const char* function, nvmlDevice device, const char* field, T* value) {
  return about(function, device, [&](const Machine&, const Gpu& gpu) {
    const std::int64_t found = gpu.fields.number(field, -1);
    if (found < 0) return NVML_ERROR_NOT_SUPPORTED;
    *value = static_cast<T>(found);
    return NVML_SUCCESS;
  });
}

nvmlReturn copy_text(const std::string& from, char* to, unsigned length) {
  if (from.size() >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::memcpy(to, from.c_str(), from.size() + 1);
  return NVML_SUCCESS;
}

nvmlReturn start(const char* function) {
  const std::lock_guard lock(mutex);
  const Machine machine;
  if (const nvmlReturn error = planned(machine, function)) return error;
  ++references;
  return NVML_SUCCESS;
}

template <typename Accept>
nvmlReturn find(const char* function, nvmlDevice* device, Accept accept) {
  const std::lock_guard lock(mutex);
  if (references == 0) return NVML_ERROR_UNINITIALIZED;
  const Machine machine;
  if (const nvmlReturn error = planned(machine, function)) return error;
  for (const Gpu& gpu : machine.gpus()) {
    if (!accept(gpu)) continue;
    *device = static_cast<nvmlDevice>(gpu.index) + 1;
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}

}  // namespace

FAKE_NVML int nvmlInit_v2() { return start("nvmlInit_v2"); }
FAKE_NVML int nvmlInitWithFlags(unsigned) { return start("nvmlInit_v2"); }

FAKE_NVML int nvmlShutdown() {
  const std::lock_guard lock(mutex);
  if (references == 0) return NVML_ERROR_UNINITIALIZED;
  --references;
  return NVML_SUCCESS;
}

FAKE_NVML const char* nvmlErrorString(int error) {
  switch (error) {
    case NVML_SUCCESS:
      return "Success";
    case NVML_ERROR_UNINITIALIZED:
      return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
      return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
      return "Not Supported";
    case NVML_ERROR_NOT_FOUND:
      return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
      return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
      return "Driver Not Loaded";
    case NVML_ERROR_GPU_IS_LOST:
      return "GPU is lost";
    default:
      return "Unknown Error";
  }
}

FAKE_NVML int nvmlSystemGetDriverVersion(char* text, unsigned length) {
  return copy_text(Machine{}.settings().text("driver", "580.65.06"), text, length);
}

FAKE_NVML int nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = Machine{}.driver_version();
  return NVML_SUCCESS;
}

FAKE_NVML int nvmlDeviceGetCount_v2(unsigned* count) {
  const std::lock_guard lock(mutex);
  if (references == 0) return NVML_ERROR_UNINITIALIZED;
  *count = 0;
  const Machine machine;
  for (const Gpu& gpu : machine.gpus()) *count += gpu.parent.empty();
  return NVML_SUCCESS;
}

FAKE_NVML int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice* device) {
  return find("nvmlDeviceGetHandleByIndex_v2", device, [&](const Gpu& gpu) {
    return gpu.parent.empty() && static_cast<unsigned>(gpu.index) == index;
  });
}

FAKE_NVML int nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice* device) {
  return find("nvmlDeviceGetHandleByUUID", device,
              [&](const Gpu& gpu) { return gpu.uuid == uuid; });
}

FAKE_NVML int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, nvmlDevice* device) {
  return find("nvmlDeviceGetHandleByPciBusId_v2", device,
              [&](const Gpu& gpu) { return gpu.pci_bus_id == bus_id; });
}

FAKE_NVML int nvmlDeviceGetIndex(nvmlDevice device, unsigned* index) {
  return about("nvmlDeviceGetIndex", device, [&](const Machine&, const Gpu& gpu) {
    *index = static_cast<unsigned>(gpu.index);
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetName(nvmlDevice device, char* text, unsigned length) {
  return about("nvmlDeviceGetName", device,
               [&](const Machine&, const Gpu& gpu) { return copy_text(gpu.name, text, length); });
}

FAKE_NVML int nvmlDeviceGetUUID(nvmlDevice device, char* text, unsigned length) {
  return about("nvmlDeviceGetUUID", device,
               [&](const Machine&, const Gpu& gpu) { return copy_text(gpu.uuid, text, length); });
}

FAKE_NVML int nvmlDeviceGetMemoryInfo(nvmlDevice device, nvmlMemory* memory) {
  return about("nvmlDeviceGetMemoryInfo", device, [&](const Machine& machine, const Gpu& gpu) {
    const std::uint64_t used = machine.memory_used_bytes(gpu);
    *memory = {gpu.memory_bytes, gpu.memory_bytes - used, used};
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetMemoryInfo_v2(nvmlDevice device, nvmlMemory_v2* memory) {
  return about("nvmlDeviceGetMemoryInfo", device, [&](const Machine& machine, const Gpu& gpu) {
    const auto reserved = static_cast<std::uint64_t>(gpu.fields.number("memory_reserved_bytes", 0));
    const std::uint64_t used = machine.memory_used_bytes(gpu);
    *memory = {memory->version, gpu.memory_bytes, reserved, gpu.memory_bytes - used,
               used - reserved};
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetUtilizationRates(nvmlDevice device, nvmlUtilization* rates) {
  rates->memory = 0;
  return number("nvmlDeviceGetUtilizationRates", device, "utilization_percent", &rates->gpu);
}

FAKE_NVML int nvmlDeviceGetPowerUsage(nvmlDevice device, unsigned* milliwatts) {
  return number("nvmlDeviceGetPowerUsage", device, "power_mw", milliwatts);
}

// As if the power had always been what it is now.
FAKE_NVML int nvmlDeviceGetTotalEnergyConsumption(nvmlDevice device,
                                                  unsigned long long* energy_mj) {
  using Seconds = std::chrono::duration<double>;
  const Seconds up = std::chrono::steady_clock::now().time_since_epoch();
  unsigned long long power_mw = 0;
  const nvmlReturn result =
      number("nvmlDeviceGetTotalEnergyConsumption", device, "power_mw", &power_mw);
  *energy_mj = static_cast<unsigned long long>(static_cast<double>(power_mw) * up.count());
  return result;
}

FAKE_NVML int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice device, unsigned* milliwatts) {
  return number("nvmlDeviceGetEnforcedPowerLimit", device, "power_limit_mw", milliwatts);
}

FAKE_NVML int nvmlDeviceGetPowerManagementLimit(nvmlDevice device, unsigned* milliwatts) {
  return number("nvmlDeviceGetPowerManagementLimit", device, "power_limit_mw", milliwatts);
}

FAKE_NVML int nvmlDeviceGetTemperature(nvmlDevice device, unsigned, unsigned* celsius) {
  return number("nvmlDeviceGetTemperature", device, "temperature_c", celsius);
}

FAKE_NVML int nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice device, unsigned* generation) {
  return number("nvmlDeviceGetMaxPcieLinkGeneration", device, "pcie_generation", generation);
}

FAKE_NVML int nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice device, unsigned* generation) {
  return number("nvmlDeviceGetCurrPcieLinkGeneration", device, "pcie_generation", generation);
}

FAKE_NVML int nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice device, unsigned* lanes) {
  return number("nvmlDeviceGetMaxPcieLinkWidth", device, "pcie_width", lanes);
}

FAKE_NVML int nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice device, unsigned* lanes) {
  return number("nvmlDeviceGetCurrPcieLinkWidth", device, "pcie_width", lanes);
}

FAKE_NVML int nvmlDeviceGetComputeMode(nvmlDevice device, unsigned* mode) {
  return number("nvmlDeviceGetComputeMode", device, "compute_mode", mode);
}

FAKE_NVML int nvmlDeviceGetNumaNodeId(nvmlDevice device, unsigned* node) {
  return number("nvmlDeviceGetNumaNodeId", device, "numa_node", node);
}

FAKE_NVML int nvmlDeviceGetMigMode(nvmlDevice device, unsigned* current, unsigned* pending) {
  const nvmlReturn result = number("nvmlDeviceGetMigMode", device, "mig", current);
  *pending = *current;
  return result;
}

FAKE_NVML int nvmlDeviceGetMaxMigDeviceCount(nvmlDevice device, unsigned* count) {
  return about("nvmlDeviceGetMaxMigDeviceCount", device, [&](const Machine&, const Gpu& gpu) {
    *count = gpu.fields.number("mig", 0) > 0 ? kMigInstances : 0;
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice device, unsigned index,
                                                  nvmlDevice* instance) {
  const char* function = "nvmlDeviceGetMigDeviceHandleByIndex";
  return about(function, device, [&](const Machine& machine, const Gpu& gpu) {
    for (const Gpu& each : machine.gpus()) {
      if (each.parent != gpu.uuid || each.fields.number("mig_index", 0) != index) continue;
      *instance = static_cast<nvmlDevice>(each.index) + 1;
      return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
  });
}

FAKE_NVML int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice instance,
                                                           nvmlDevice* device) {
  const char* function = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle";
  return about(function, instance, [&](const Machine& machine, const Gpu& gpu) {
    for (const Gpu& each : machine.gpus()) {
      if (gpu.parent != each.uuid) continue;
      *device = static_cast<nvmlDevice>(each.index) + 1;
      return NVML_SUCCESS;
    }
    return NVML_ERROR_INVALID_ARGUMENT;
  });
}

FAKE_NVML int nvmlDeviceGetAttributes_v2(nvmlDevice instance, nvmlDeviceAttributes* has) {
  return about("nvmlDeviceGetAttributes_v2", instance, [&](const Machine&, const Gpu& gpu) {
    if (gpu.parent.empty()) return NVML_ERROR_NOT_SUPPORTED;
    *has = {};
    has->multiprocessors = static_cast<unsigned>(gpu.sms);
    has->memory_mib = gpu.memory_bytes >> 20;
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetCudaComputeCapability(nvmlDevice device, int* major, int* minor) {
  return about("nvmlDeviceGetCudaComputeCapability", device, [&](const Machine&, const Gpu& gpu) {
    *major = gpu.capability_major;
    *minor = gpu.capability_minor;
    return NVML_SUCCESS;
  });
}

FAKE_NVML int nvmlDeviceGetPciInfo_v3(nvmlDevice device, nvmlPciInfo* info) {
  return about("nvmlDeviceGetPciInfo_v3", device, [&](const Machine&, const Gpu& gpu) {
    *info = {};
    std::sscanf(gpu.pci_bus_id.c_str(), "%x:%x:%x", &info->domain, &info->bus, &info->device);
    info->pci_device_id = 0x233010DE;
    copy_text(gpu.pci_bus_id.substr(4), info->bus_id_legacy, sizeof info->bus_id_legacy);
    return copy_text(gpu.pci_bus_id, info->bus_id, sizeof info->bus_id);
  });
}

// The cores and memory near the GPU: 64 of each to a word.
FAKE_NVML int nvmlDeviceGetCpuAffinity(nvmlDevice device, unsigned words, unsigned long* set) {
  std::memset(set, 0, words * sizeof *set);
  return number("nvmlDeviceGetCpuAffinity", device, "cpu_mask", set);
}

FAKE_NVML int nvmlDeviceGetMemoryAffinity(nvmlDevice device, unsigned words, unsigned long* set,
                                          unsigned) {
  std::memset(set, 0, words * sizeof *set);
  unsigned node = 0;
  const nvmlReturn result = number("nvmlDeviceGetMemoryAffinity", device, "numa_node", &node);
  if (result == NVML_SUCCESS && node / 64 < words) set[node / 64] = 1UL << node % 64;
  return result;
}

// As a real one: what MPS clients hold is their server's.
FAKE_NVML int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice device, unsigned* count,
                                                      nvmlProcessInfo* infos) {
  const char* function = "nvmlDeviceGetComputeRunningProcesses_v3";
  return about(function, device, [&](const Machine& machine, const Gpu& gpu) {
    std::map<unsigned, std::uint64_t> used_bytes;
    for (const int pid : machine.processes()) {
      const auto path = machine.process_path(pid);
      const auto used = fake::Table::read(path, "memory." + gpu.uuid);
      const auto server = fake::Table::read(path, "mps.server").value_or(0);
      if (used)
        used_bytes[server != 0 ? static_cast<unsigned>(server) : static_cast<unsigned>(pid)] +=
            *used;
    }
    const bool room = *count >= used_bytes.size();
    *count = static_cast<unsigned>(used_bytes.size());
    if (!room) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (const auto& [pid, used] : used_bytes) *infos++ = {pid, used, kNoInstance, kNoInstance};
    return NVML_SUCCESS;
  });
}
