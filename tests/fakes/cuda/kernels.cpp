// Modules and kernels. An image is PTX text; of the entries that it names, those below can run: a
// fake computes nothing else, and a kernel that it cannot run is a kernel that it does not find.
#include <time.h>

#include <cctype>
#include <cstring>
#include <string>

#include "core.hpp"

namespace fake {
namespace {

using Run = std::function<CUresult()>;

struct Launch {
  void** parameters;
  unsigned blocks;
  int device;
  int sms;  // of the stream that it is enqueued or captured on

  template <typename T>
  T argument(int index) const {
    T value;
    std::memcpy(&value, parameters[index], sizeof value);
    return value;
  }
};

// Sleeps: as long as on the whole GPU, in proportion longer on a share.
Run busy(std::int64_t whole_ns, const Launch& launch) {
  const std::int64_t took_ns = whole_ns * Core::get().gpu(launch.device).sms / launch.sms;
  return [took_ns] {
    timespec left{static_cast<time_t>(took_ns / 1'000'000'000), took_ns % 1'000'000'000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) != 0) {
    }
    return CUDA_SUCCESS;
  };
}

// out[i] = in[i] * factor: (float* out, const float* in, float factor, uint32 count)
Run make_scale(const Launch& launch) {
  const auto out = launch.argument<CUdeviceptr>(0);
  const auto in = launch.argument<CUdeviceptr>(1);
  const auto factor = launch.argument<float>(2);
  const auto count = launch.argument<std::uint32_t>(3);
  const std::size_t bytes = count * sizeof(float);
  const Place to = resolve(out, bytes), from = resolve(in, bytes);
  return [=] {
    if (to.kind != Place::Kind::kDevice || !to.writable || from.kind != Place::Kind::kDevice)
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    const auto* values = static_cast<const float*>(from.address);
    for (std::uint32_t i = 0; i < count; ++i)
      static_cast<float*>(to.address)[i] = values[i] * factor;
    return CUDA_SUCCESS;
  };
}

// Takes that long on the whole GPU: (uint32 microseconds)
Run make_spin(const Launch& launch) {
  return busy(std::int64_t{launch.argument<std::uint32_t>(0)} * 1000, launch);
}

// Takes as long as its blocks and their turns of arithmetic do: (uint64 sink, uint32 turns)
Run make_burn(const Launch& launch) {
  constexpr std::int64_t kTurnsPerNs = 32;  // of the whole GPU; a real one is slower
  const std::int64_t turns = std::int64_t{launch.argument<std::uint32_t>(1)} * launch.blocks;
  return busy(turns / kTurnsPerNs, launch);
}

// Writes where nothing is: ()
Run make_fault(const Launch&) {
  return [] { return CUDA_ERROR_ILLEGAL_ADDRESS; };
}

struct Kernel {
  const char* name;
  Run (*make)(const Launch& launch);
};

constexpr Kernel kKernels[] = {
    {"gslice_fake_scale", make_scale},
    {"gslice_fake_spin", make_spin},
    {"gslice_burn", make_burn},
    {"gslice_fault", make_fault},
};

bool names_entry(const std::string& image, const std::string& name) {
  const std::string entry = ".entry";
  for (std::size_t at = image.find(entry); at != std::string::npos; at = image.find(entry, at)) {
    at = image.find_first_not_of(" \t\n", at + entry.size());
    if (at == std::string::npos) return false;
    const char after = at + name.size() < image.size() ? image[at + name.size()] : ' ';
    if (image.compare(at, name.size(), name) == 0 && !std::isalnum(after) && after != '_')
      return true;
  }
  return false;
}

}  // namespace
}  // namespace fake

struct CUmod_st {
  std::string image;
};

// A function is the kernel's row in the table.
struct CUfunc_st : fake::Kernel {};

using namespace fake;

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (const CUresult failed = enter("cuModuleLoadData")) return failed;
  const std::string text = static_cast<const char*>(image);
  if (text.find(".entry") == std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
  *module = new CUmod_st{text};
  Core::get().count("live.modules");
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (const CUresult failed = enter("cuModuleGetFunction")) return failed;
  static const std::vector<CUfunc_st> functions = [] {
    std::vector<CUfunc_st> made;
    for (const Kernel& kernel : kKernels) made.push_back({kernel});
    return made;
  }();
  if (!names_entry(module->image, name)) return CUDA_ERROR_NOT_FOUND;
  for (const CUfunc_st& known : functions) {
    if (std::string_view(known.name) != name) continue;
    *function = const_cast<CUfunction>(&known);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleUnload(CUmodule module) {
  if (const CUresult failed = enter("cuModuleUnload")) return failed;
  Core::get().count("live.modules", -1);
  delete module;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned,
                        CUstream handle, void** parameters, void** extra) {
  if (const CUresult failed = enter("cuLaunchKernel")) return failed;
  const unsigned long long threads = 1ULL * block_x * block_y * block_z;
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || threads == 0 || threads > 1024)
    return CUDA_ERROR_INVALID_VALUE;
  if (extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  Core& core = Core::get();
  Lock lock(core.mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  core.count("kernels");
  const Launch launch{parameters, grid_x * grid_y * grid_z, stream->context->device,
                      sms_of(stream)};
  return enqueue(lock, stream, {.kind = "kernel", .run = function->make(launch)});
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* user_data) {
  if (const CUresult failed = enter("cuLaunchHostFunc")) return failed;
  Lock lock(Core::get().mutex);
  const CUstream stream = find_stream(handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return enqueue(lock, stream, {.kind = "host", .run = [function, user_data] {
                                  run_host_function(function, user_data);
                                  return CUDA_SUCCESS;
                                }});
}
