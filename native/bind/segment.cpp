// Segment and Signature as Python sees them: what the daemon's supervisor and the tests use.
#include "segment/segment.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <span>
#include <tuple>

#include "base/signature.hpp"
#include "bind/arguments.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

using TensorTuple = std::tuple<std::string, std::string, std::vector<std::int64_t>>;

std::vector<TensorSpec> tensor_specs(const std::vector<TensorTuple>& tuples) {
  std::vector<TensorSpec> specs;
  specs.reserve(tuples.size());
  for (const auto& [name, dtype_name, dims] : tuples) {
    const DType dtype = dtype_from_name(dtype_name);
    if (dtype == DType::kInvalid)
      raise(Status::Error(Code::kInvalidArgument,
                          "tensor '" + name + "' has the unknown data type '" + dtype_name + "'"));
    specs.push_back({name, dtype, dims});
  }
  return specs;
}

Signature make_signature(const std::vector<TensorTuple>& inputs,
                         const std::vector<TensorTuple>& outputs, std::uint32_t rows_max,
                         std::vector<std::uint32_t> buckets) {
  Signature made{tensor_specs(inputs), tensor_specs(outputs), rows_max, std::move(buckets)};
  raise_if(check_signature(made));
  return made;
}

std::uint16_t instance_or_nobody(std::optional<std::uint32_t> index) {
  return index ? instance_index(*index) : kNobody;
}

std::shared_ptr<Segment> create_segment(
    const std::string& name, const std::vector<std::tuple<std::uint64_t, std::uint32_t>>& classes,
    std::uint64_t block_bytes, std::uint32_t block_count) {
  SegmentSpec spec{name, {}, block_bytes, block_count};
  for (const auto& [payload_bytes, count] : classes) spec.classes.push_back({payload_bytes, count});
  return take_or_raise(Segment::create(spec));
}

nb::dict requeue(Segment& segment, std::uint32_t instance, bool may_rerun, bool device_gone,
                 bool blamed) {
  std::vector<std::uint16_t> wake;
  const Requeued result =
      segment.requeue(instance_index(instance), may_rerun, wake, device_gone, blamed);
  nb::dict out;
  out["requeued"] = result.requeued;
  out["poisoned"] = result.poisoned;
  out["freed"] = result.freed;
  out["failed"] = result.failed;
  out["wake"] = wake;
  return out;
}

nb::dict counts(Segment& segment) {
  static constexpr std::array<const char*, 6> kNames{"free",    "leased", "queued",
                                                     "claimed", "done",   "quarantined"};
  const auto states = segment.count_states();
  nb::dict out;
  for (std::size_t i = 0; i < kNames.size(); ++i) out[kNames[i]] = states[i];
  out["blocks_in_use"] = segment.blocks_in_use();
  return out;
}

nb::dict instance_stamps(Segment& segment, std::uint32_t instance) {
  const InstanceEntry& entry = segment.header().instances[instance_index(instance)];
  nb::list lanes;
  for (const auto& started : entry.lane_started_ns) lanes.append(started.load_relaxed());
  nb::dict out;
  out["pump_ns"] = entry.pump_stamp_ns.load_relaxed();
  out["last_claim_ns"] = entry.last_claim_ns.load_relaxed();
  out["lane_started_ns"] = lanes;
  out["ready_since_ns"] = entry.ready_since_ns.load_relaxed();
  out["first_wait_ns"] = entry.first_wait_ns.load_relaxed();
  out["sleeping"] = entry.sleeping.load_relaxed() != 0;
  return out;
}

template <std::size_t N>
nb::object uint64_array(const std::array<Shared<std::uint64_t>, N>& counters) {
  auto* copy = new std::array<std::uint64_t, N>;
  nb::capsule owner(
      copy, [](void* data) noexcept { delete static_cast<std::array<std::uint64_t, N>*>(data); });
  std::ranges::transform(counters, copy->begin(), [](const auto& c) { return c.load_relaxed(); });
  return nb::cast(nb::ndarray<nb::numpy, std::uint64_t, nb::ndim<1>>(copy->data(), {N}, owner));
}

// Everything that came and was well-formed has ended in one of these ways, or is in a slot.
nb::dict demand(Segment& segment) {
  const Stats& stats = segment.header().stats;
  const std::array<std::uint32_t, 6> slots = segment.count_states();
  std::uint64_t arrived = 0;
  for (const Outcome outcome : {Outcome::kOk, Outcome::kRejected, Outcome::kExpired,
                                Outcome::kCancelled, Outcome::kFailed, Outcome::kPoisoned})
    arrived += stats.outcome[static_cast<std::size_t>(outcome)].load_relaxed();
  for (const SlotState state :
       {SlotState::kLeased, SlotState::kQueued, SlotState::kClaimed, SlotState::kDone})
    arrived += slots[static_cast<std::size_t>(state)];
  nb::dict out;
  out["arrived"] = arrived;
  out["answered"] = stats.outcome[static_cast<std::size_t>(Outcome::kOk)].load_relaxed();
  out["rows"] = stats.rows.load_relaxed();
  out["executions"] = stats.executions.load_relaxed();
  out["compute_busy_ns"] = stats.compute_busy_ns.load_relaxed();
  const Histogram& turns = stats.stage[static_cast<std::size_t>(Stage::kTurn)];
  out["turns"] = turns.count.load_relaxed();
  out["turn_wait_ns"] = turns.sum_ns.load_relaxed();
  out["batch_rows"] = uint64_array(stats.batch_rows);
  return out;
}

nb::dict stats(Segment& segment) {
  static constexpr std::array<const char*, static_cast<std::size_t>(Outcome::kCount)> kOutcomes{
      "ok", "invalid", "rejected", "expired", "cancelled", "failed", "requeued", "poisoned"};
  static constexpr std::array<const char*, static_cast<std::size_t>(Stage::kCount)> kStages{
      "queue", "copy_in", "compute", "copy_out", "total", "dispatch", "turn"};
  const Stats& stats = segment.header().stats;
  nb::dict outcome;
  for (std::size_t i = 0; i < kOutcomes.size(); ++i)
    outcome[kOutcomes[i]] = stats.outcome[i].load_relaxed();
  nb::dict stage;
  for (std::size_t i = 0; i < kStages.size(); ++i) {
    nb::dict histogram;
    histogram["count"] = stats.stage[i].count.load_relaxed();
    histogram["sum_ns"] = stats.stage[i].sum_ns.load_relaxed();
    histogram["bins"] = uint64_array(stats.stage[i].bins);
    stage[kStages[i]] = histogram;
  }
  nb::dict out;
  out["outcome"] = outcome;
  out["stage"] = stage;
  out["rows"] = stats.rows.load_relaxed();
  out["executions"] = stats.executions.load_relaxed();
  out["copies"] = stats.copies.load_relaxed();
  out["copied_bytes"] = stats.copied_bytes.load_relaxed();
  out["compute_busy_ns"] = stats.compute_busy_ns.load_relaxed();
  out["last_inference_ms"] = stats.last_inference_ms.load_relaxed();
  out["batch_rows"] = uint64_array(stats.batch_rows);
  return out;
}

nb::object histogram_bounds_us() {
  auto* bounds = new std::array<double, kHistogramBins + 1>;
  nb::capsule owner(bounds, [](void* data) noexcept {
    delete static_cast<std::array<double, kHistogramBins + 1>*>(data);
  });
  for (std::size_t i = 0; i < bounds->size(); ++i) (*bounds)[i] = histogram_bin_lower_us(i);
  return nb::cast(
      nb::ndarray<nb::numpy, double, nb::ndim<1>>(bounds->data(), {bounds->size()}, owner));
}

}  // namespace

void bind_segment(nb::module_& module) {
  nb::class_<Signature>(module, "Signature")
      .def(
          "__init__",
          [](Signature* self, const std::vector<TensorTuple>& inputs,
             const std::vector<TensorTuple>& outputs, std::uint32_t rows_max,
             const std::vector<std::uint32_t>& buckets) {
            new (self) Signature(make_signature(inputs, outputs, rows_max, buckets));
          },
          nb::arg("inputs"), nb::arg("outputs"), nb::arg("rows_max"), nb::arg("buckets"));

  nb::class_<Segment>(module, "Segment")
      .def_static("create", &create_segment, nb::arg("name"), nb::arg("classes"),
                  nb::arg("block_bytes"), nb::arg("block_count"))
      .def_static(
          "open", [](int fd) { return take_or_raise(Segment::open(fd)); }, nb::arg("fd"))
      .def_prop_ro("fd", &Segment::fd)
      .def_prop_ro("name", &Segment::name)
      .def_prop_ro("size_bytes", &Segment::size_bytes)
      .def_prop_ro("generation", [](Segment& self) { return self.header().generation; })
      .def("add_instance", [](Segment& self) { return take_or_raise(self.add_instance()); })
      .def(
          "remove_instance",
          [](Segment& self, std::uint32_t instance) {
            self.remove_instance(instance_index(instance));
          },
          nb::arg("instance"))
      .def(
          "flip",
          [](Segment& self, std::optional<std::uint32_t> old, std::optional<std::uint32_t> next) {
            const auto took_ns = self.flip(instance_or_nobody(old), instance_or_nobody(next));
            if (!took_ns)
              raise(Status::Error(Code::kUnavailable,
                                  "the function's lock is held by a process that hangs"));
            return *took_ns;
          },
          nb::arg("old").none(), nb::arg("next").none())
      .def(
          "may_pull",
          [](Segment& self, std::uint32_t instance) {
            return self.may_pull(instance_index(instance));
          },
          nb::arg("instance"))
      .def(
          "activate_frontend",
          [](Segment& self, std::uint32_t frontend) {
            self.activate_frontend(frontend_index(frontend));
          },
          nb::arg("frontend"))
      .def(
          "reap_frontend",
          [](Segment& self, std::uint32_t frontend) {
            return self.reap_frontend(frontend_index(frontend));
          },
          nb::arg("frontend"))
      .def("requeue", &requeue, nb::arg("instance"), nb::arg("may_rerun"),
           nb::arg("device_gone") = false, nb::arg("blamed") = true)
      .def(
          "fail_queued",
          [](Segment& self, int code, const std::string& message) {
            std::vector<std::uint16_t> wake;
            self.fail_queued(static_cast<Code>(code), message, wake);
            return wake;
          },
          nb::arg("code"), nb::arg("message"))
      .def(
          "release_quarantine",
          [](Segment& self, std::uint32_t instance) {
            return self.release_quarantine(instance_index(instance));
          },
          nb::arg("instance"))
      .def("rebuild_hints", &Segment::rebuild_hints)
      .def(
          "set_limits",
          [](Segment& self, std::uint32_t batch_rows_max, std::int64_t batch_delay_ns,
             std::int64_t admit_within_ns) {
            self.header().batch_rows_max.store_relaxed(batch_rows_max);
            self.header().batch_delay_ns.store_relaxed(batch_delay_ns);
            self.header().admit_within_ns.store_relaxed(admit_within_ns);
          },
          nb::arg("batch_rows_max"), nb::arg("batch_delay_ns"), nb::arg("admit_within_ns") = 0)
      .def("counts", &counts)
      .def("instance_stamps", &instance_stamps, nb::arg("instance"))
      .def("demand", &demand)
      .def("stats", &stats);

  module.def("histogram_bounds_us", &histogram_bounds_us);
}

}  // namespace gslice
