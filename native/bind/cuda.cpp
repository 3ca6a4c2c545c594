#include "bind/cuda.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "segment/layout.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using cuda::CudaDevice;

using cuda::GreenContext;
using cuda::SmGroups;

// The driver gets its context back when Python says so, not when the last reference goes.
class Groups {
 public:
  explicit Groups(std::shared_ptr<SmGroups> groups) : groups_(std::move(groups)) {}

  const std::shared_ptr<SmGroups>& groups() const {
    if (groups_ == nullptr)
      raise(Status::Error(Code::kFailedPrecondition, "the groups of SMs are given back"));
    return groups_;
  }
  void close() { groups_.reset(); }

 private:
  std::shared_ptr<SmGroups> groups_;
};

using Chosen = std::vector<std::uint32_t>;

std::shared_ptr<GreenContext> green_context(const Groups& groups, const Chosen& chosen) {
  std::shared_ptr<SmGroups> of = groups.groups();
  return take_or_raise([&] {
    const nb::gil_scoped_release release;
    return GreenContext::create(std::move(of), chosen);
  }());
}

// Contexts take seconds, and what streams still run may need Python: all without the GIL.
Groups* split_device(int ordinal) {
  return new Groups(take_or_raise([&] {
    const nb::gil_scoped_release release;
    return SmGroups::split(ordinal);
  }()));
}

std::shared_ptr<CudaDevice> open_device(int ordinal, std::uint32_t lanes,
                                        std::size_t staging_max_bytes, const Groups* groups,
                                        const Chosen& chosen) {
  if (lanes == 0 || lanes > kMaxLanes)
    raise(Status::Error(Code::kInvalidArgument, std::to_string(lanes) + " lanes; 1 to " +
                                                    std::to_string(kMaxLanes) + " are possible"));
  std::shared_ptr<GreenContext> green;
  if (groups != nullptr) green = green_context(*groups, chosen);
  return take_or_raise([&] {
    const nb::gil_scoped_release release;
    return CudaDevice::open(ordinal, lanes, staging_max_bytes, std::move(green));
  }());
}

void prepare_move(CudaDevice& device, const Groups& groups, const Chosen& chosen) {
  std::shared_ptr<GreenContext> green = green_context(groups, chosen);
  raise_if([&] {
    const nb::gil_scoped_release release;
    return device.prepare_move(std::move(green));
  }());
}

void drop_spare(CudaDevice& device) {
  const nb::gil_scoped_release release;
  device.drop_spare();
}

void close_device(CudaDevice& device) {
  raise_if([&] {
    const nb::gil_scoped_release release;
    return device.close();
  }());
}

CudaDevice& opened(CudaDevice& device) {
  check_device(device, {}, device.first_place());
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

std::vector<std::uintptr_t> side_streams(CudaDevice& device, std::uint32_t lane,
                                         std::size_t count) {
  check_device(device, {}, lane);
  std::vector<std::uintptr_t> handles;
  for (const cuda::CUstream stream : take_or_raise(device.lane(lane)->side_streams(count)))
    handles.push_back(reinterpret_cast<std::uintptr_t>(stream));
  return handles;
}

}  // namespace

void check_device(const CudaDevice& device, const Signature& signature, std::uint32_t lane) {
  const auto refuse = [](std::string why) {
    raise(Status::Error(Code::kFailedPrecondition, std::move(why)));
  };
  if (device.closed()) refuse("the device is closed");
  if (!device.has_lane(lane))
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
  nb::class_<Groups>(module, "SmGroups")
      .def(nb::new_(&split_device), nb::arg("ordinal"))
      .def_prop_ro("count", [](const Groups& self) { return self.groups()->count(); })
      .def_prop_ro("group_sms", [](const Groups& self) { return self.groups()->group_sms(); })
      .def_prop_ro("sms", [](const Groups& self) { return self.groups()->sms(); })
      .def("close", &Groups::close);

  nb::class_<CudaDevice>(module, "CudaDevice")
      .def(nb::new_(&open_device), nb::arg("ordinal"), nb::arg("lanes"),
           nb::arg("staging_max_bytes") = cuda::kStagingMaxBytes,
           nb::arg("groups").none() = nb::none(), nb::arg("chosen") = Chosen{})
      .def_prop_ro("ordinal", [](const CudaDevice& self) { return self.info().ordinal; })
      .def_prop_ro("name", [](const CudaDevice& self) { return self.info().name; })
      .def_prop_ro("uuid", [](const CudaDevice& self) { return self.info().uuid; })
      .def_prop_ro("driver_version",
                   [](const CudaDevice& self) { return self.info().driver_version; })
      .def_prop_ro("sm_count", [](const CudaDevice& self) { return self.info().sm_count; })
      .def_prop_ro("lanes", &CudaDevice::lane_count)
      .def_prop_ro("lane_sms", &CudaDevice::sms)
      .def_prop_ro("first_lane", &CudaDevice::first_place)
      .def_prop_ro("spare_lane", &CudaDevice::other_place)
      .def("prepare_move", &prepare_move, nb::arg("groups"), nb::arg("chosen"))
      .def("drop_spare", &drop_spare)
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
      .def("side_streams", &side_streams, nb::arg("lane"), nb::arg("count"))
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
