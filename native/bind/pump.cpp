// Instance as Python sees it: the pump on the CPU device, over a Python or the identity engine.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <optional>

#include "base/clock.hpp"
#include "bind/batch.hpp"
#include "bind/cuda.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "bind/python_engine.hpp"
#include "pump/cpu_device.hpp"
#include "pump/identity.hpp"
#include "pump/instance.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

class PyInstance {
 public:
  PyInstance(std::shared_ptr<Segment> segment, std::uint32_t index, const Signature& signature,
             std::uint32_t lanes, std::optional<nb::callable> prepared,
             std::shared_ptr<cuda::CudaDevice> device, bool in_place)
      : device_(std::move(device)), lanes_(lanes) {
    if (device_) check_device(*device_, signature, device_->first_place() + lanes - 1);
    std::unique_ptr<Engine> engine;
    if (prepared) {
      const std::uint32_t places = device_ ? device_->place_count() : lanes;
      auto python = std::make_unique<PythonEngine>(std::move(*prepared), places, segment);
      if (device_) python->prepare(signature, device_->first_place(), lanes);
      python_ = python.get();
      engine = std::move(python);
    } else {
      raise_if(check_identity(signature));
      engine = std::make_unique<IdentityEngine>(in_place);
    }
    std::shared_ptr<DeviceTable> table = device_;
    if (!table) table = std::make_shared<CpuDevice>(lanes);
    instance_ = take_or_raise(Instance::create(std::move(segment), index, signature, lanes,
                                               std::move(engine), std::move(table)));
  }
  // Threads end without the GIL, which they may need to do so; Python objects go with it.
  ~PyInstance() {
    if (instance_) stop();
  }

  void take_turns(std::shared_ptr<TurnBoard> board, std::uint32_t entry) {
    raise_if(instance_->take_turns(std::move(board), entry));
  }
  void start() {
    Status status;
    {
      const nb::gil_scoped_release release;
      status = instance_->start();
    }
    raise_if(status);
  }
  bool drain(double timeout_s) {
    constexpr double kLongest_s = 1e9;
    const nb::gil_scoped_release release;
    return instance_->drain(static_cast<std::int64_t>(std::min(timeout_s, kLongest_s) * 1e9));
  }
  // What was prepared for lanes that are gone, or will not be used, is given back.
  void move() {
    if (!device_)
      raise(Status::Error(Code::kFailedPrecondition, "only a CUDA device has SMs to move to"));
    const std::uint32_t left = device_->first_place(), spare = device_->other_place();
    Status status;
    try {
      if (python_ != nullptr) python_->prepare(instance_->signature(), spare, lanes_);
      const nb::gil_scoped_release release;
      status = instance_->move();
    } catch (...) {
      if (python_ != nullptr) python_->forget(spare, lanes_);
      throw;
    }
    if (python_ != nullptr) python_->forget(status.ok() ? left : spare, lanes_);
    raise_if(status);
  }
  void stop() {
    const nb::gil_scoped_release release;
    instance_->stop();
  }
  void add_frontend(std::uint32_t frontend, int eventfd) {
    raise_if(instance_->frontends().add(frontend, eventfd));
  }
  void remove_frontend(std::uint32_t frontend) { instance_->frontends().remove(frontend); }
  std::vector<int> lane_tids() const { return instance_->lane_tids(); }
  int pump_tid() const { return instance_->pump_tid(); }
  int turn_tid() const { return instance_->turn_tid(); }
  int fault_fd() const { return instance_->fault().fd(); }
  std::string fault() const { return instance_->fault().line(); }
  void record(std::uint32_t requests, std::size_t bytes, double duration_s) {
    const std::int64_t until_ns = now_ns() + static_cast<std::int64_t>(duration_s * 1e9);
    if (!instance_->recorder().begin(requests, bytes, until_ns))
      raise(Status::Error(Code::kResourceExhausted, "no memory to record requests in"));
  }
  nb::tuple recorded() const {
    const Recorder& recorder = instance_->recorder();
    return nb::make_tuple(recorder.taken(), recorder.left());
  }
  nb::tuple take_recorded() {
    const Recorder::Recording recording = instance_->recorder().end();
    const nb::bytes bytes(recording.bytes.data(), recording.bytes.size());
    return nb::make_tuple(recording.requests, recording.full, bytes);
  }
  nb::dict counters() const {
    const PumpCounters& counters = instance_->counters();
    nb::dict out;
    if (device_) out = counters_of(*device_);
    out["python_calls"] = python_ != nullptr ? python_->calls() : 0;
    out["batches"] = counters.batches.load();
    out["zero_copy_batches"] = counters.zero_copy_batches.load();
    out["lane_buffer_allocations"] = counters.lane_buffer_allocations.load();
    return out;
  }

 private:
  const std::shared_ptr<cuda::CudaDevice> device_;
  const std::uint32_t lanes_;
  PythonEngine* python_ = nullptr;
  std::unique_ptr<Instance> instance_;
};

}  // namespace

void bind_pump(nb::module_& module) {
  bind_batch(module);
  nb::class_<PyInstance>(module, "Instance")
      .def(nb::init<std::shared_ptr<Segment>, std::uint32_t, const Signature&, std::uint32_t,
                    std::optional<nb::callable>, std::shared_ptr<cuda::CudaDevice>, bool>(),
           nb::arg("segment"), nb::arg("index"), nb::arg("signature"), nb::arg("lanes"),
           nb::arg("prepared").none(), nb::arg("device").none() = nb::none(),
           nb::arg("in_place") = false)
      .def("add_frontend", &PyInstance::add_frontend, nb::arg("frontend"), nb::arg("eventfd"))
      .def("remove_frontend", &PyInstance::remove_frontend, nb::arg("frontend"))
      .def("take_turns", &PyInstance::take_turns, nb::arg("board"), nb::arg("entry"))
      .def("start", &PyInstance::start)
      .def("lane_tids", &PyInstance::lane_tids)
      .def("pump_tid", &PyInstance::pump_tid)
      .def("turn_tid", &PyInstance::turn_tid)
      .def("drain", &PyInstance::drain, nb::arg("timeout_s"))
      .def("move", &PyInstance::move)
      .def("stop", &PyInstance::stop)
      .def_prop_ro("fault_fd", &PyInstance::fault_fd)
      .def("fault", &PyInstance::fault)
      .def("record", &PyInstance::record, nb::arg("requests"), nb::arg("size_bytes"),
           nb::arg("duration_s"))
      .def("recorded", &PyInstance::recorded)
      .def("take_recorded", &PyInstance::take_recorded)
      .def("counters", &PyInstance::counters);
}

}  // namespace gslice
