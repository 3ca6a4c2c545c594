#include "bind/cuda.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <utility>

#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "segment/layout.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using cuda::CudaDevice;

// Contexts take seconds, and what streams still run may need Python: all without the GIL.
std::shared_ptr<CudaDevice> open_device(int ordinal, std::uint32_t lanes,
                                        std::size_t staging_max_bytes) {
  if (lanes == 0 || lanes > kMaxLanes)
    raise(Status::Error(Code::kInvalidArgument, std::to_string(lanes) + " lanes; 1 to " +
                                                    std::to_string(kMaxLanes) + " are possible"));
  return take_or_raise([&] {
    const nb::gil_scoped_release release;
    return CudaDevice::open(ordinal, lanes, staging_max_bytes);
  }());
}

void close_device(CudaDevice& device) {
  raise_if([&] {
    const nb::gil_scoped_release release;
    return device.close();
  }());
}

CudaDevice& opened(CudaDevice& device) {
  check_device(device, {}, 0);
  return device;
}

void order_streams(CudaDevice& device, std::uintptr_t before, std::uintptr_t after) {
  raise_if(opened(device).context_of()->order(reinterpret_cast<cuda::CUstream>(before),
                                              reinterpret_cast<cuda::CUstream>(after)));
}

std::uintptr_t lane_stream(CudaDevice& device, std::uint32_t lane) {
  check_device(device, {}, lane);
  return device.lane(lane)->handle();
}

}  // namespace

void check_device(const CudaDevice& device, const Signature& signature, std::uint32_t lane) {
  const auto refuse = [](std::string why) {
    raise(Status::Error(Code::kFailedPrecondition, std::move(why)));
  };
  if (device.closed()) refuse("the device is closed");
  if (lane >= device.lane_count())
    refuse("the device has " + std::to_string(device.lane_count()) + " lanes, not " +
           std::to_string(std::uint64_t{lane} + 1));
  for (const auto* tensors : {&signature.inputs, &signature.outputs})
    for (const TensorSpec& tensor : *tensors)
      if (tensor.dtype == DType::kBytes)
        refuse("'" + tensor.name +
               "': BYTES tensors stay on the CPU; put this function on device cpu");
}

nb::dict counters_of(const CudaDevice& device) {
  const cuda::Counters& counters = device.counters();
  nb::dict out;
  out["synchronise_calls"] = counters.synchronise_calls.load();
  out["allocations"] = counters.allocations.load();
  out["copies"] = counters.copies.load();
  out["batched_copies"] = counters.batched_copies.load();
  out["staged_copies"] = counters.staged_copies.load();
  out["graph_launches"] = counters.graph_launches.load();
  return out;
}

void bind_cuda(nb::module_& module) {
  nb::class_<CudaDevice>(module, "CudaDevice")
      .def(nb::new_(&open_device), nb::arg("ordinal"), nb::arg("lanes"),
           nb::arg("staging_max_bytes") = cuda::kStagingMaxBytes)
      .def_prop_ro("ordinal", [](const CudaDevice& self) { return self.info().ordinal; })
      .def_prop_ro("name", [](const CudaDevice& self) { return self.info().name; })
      .def_prop_ro("uuid", [](const CudaDevice& self) { return self.info().uuid; })
      .def_prop_ro("driver_version",
                   [](const CudaDevice& self) { return self.info().driver_version; })
      .def_prop_ro("sm_count", [](const CudaDevice& self) { return self.info().sm_count; })
      .def_prop_ro("compute_capability",
                   [](const CudaDevice& self) {
                     return nb::make_tuple(self.info().compute_major, self.info().compute_minor);
                   })
      .def_prop_ro("memory_bytes", [](const CudaDevice& self) { return self.info().memory_bytes; })
      .def("memory_free_bytes",
           [](CudaDevice& self) {
             return take_or_raise(opened(self).context_of()->memory_free_bytes());
           })
      .def("lane_stream", &lane_stream, nb::arg("lane"))
      .def("order", &order_streams, nb::arg("before"), nb::arg("after"))
      .def("counters", &counters_of)
      .def("close", &close_device);

  nb::class_<CudaGraph>(module, "CudaGraph")
      .def(
          "__init__",
          [](CudaGraph* self, std::uintptr_t executable, nb::object keep) {
            if (executable == 0)
              raise(Status::Error(Code::kInvalidArgument, "a graph needs its executable's handle"));
            new (self) CudaGraph{reinterpret_cast<void*>(executable), std::move(keep)};
          },
          nb::arg("executable"), nb::arg("keep"));
}

}  // namespace gslice
