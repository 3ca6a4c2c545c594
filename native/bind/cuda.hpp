// CudaDevice and CudaGraph as Python sees them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "cuda/cuda_device.hpp"

namespace gslice {

// What the pump replays instead of a call: an instantiated graph, and what it needs to live.
struct CudaGraph {
  void* executable = nullptr;
  nanobind::object keep;
};

// Raises what speaks against serving a function on a device, in lanes up to `lane`.
void check_device(const cuda::CudaDevice& device, const Signature& signature, std::uint32_t lane);

nanobind::dict counters_of(const cuda::CudaDevice& device);

}  // namespace gslice
