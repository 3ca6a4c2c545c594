// TurnBoard as Python sees it. Shares are percent here, as everywhere in Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "bind/errors.hpp"
#include "bind/module.hpp"
#include "turns/board.hpp"

namespace nb = nanobind;

namespace gslice {
namespace {

constexpr double kPpmPerPercent = kWholePpm / 100.0;

std::uint32_t ppm(double percent) {
  return static_cast<std::uint32_t>(std::clamp(percent, 0.0, 100.0) * kPpmPerPercent);
}

// Rounded up, as shares are rounded down: what fits in percent fits here.
std::uint32_t limit_ppm(std::optional<double> limit_percent) {
  if (!limit_percent) return 0;
  const double rounded = std::ceil(std::clamp(*limit_percent, 0.0, 100.0) * kPpmPerPercent);
  return std::max<std::uint32_t>(static_cast<std::uint32_t>(rounded), 1);
}

TurnEntry& entry_at(TurnBoard& board, std::uint32_t index) {
  if (index >= kMaxTurns)
    raise(Status::Error(Code::kInvalidArgument, "a turn board has no entry " +
                                                    std::to_string(index) + "; there are " +
                                                    std::to_string(kMaxTurns)));
  return board.entry(index);
}

nb::dict as_dict(TurnBoard& board, std::uint32_t index) {
  static constexpr std::array<const char*, 4> kStates{"absent", "idle", "waiting", "running"};
  const TurnEntry& entry = entry_at(board, index);
  const auto state = static_cast<std::size_t>(entry.state.load());
  nb::dict out;
  out["segment"] = static_cast<std::uint64_t>(entry.segment);
  out["instance"] = static_cast<std::uint32_t>(entry.instance);
  out["pid"] = static_cast<std::int32_t>(entry.pid);
  out["share_percent"] = entry.share_ppm.load_relaxed() / kPpmPerPercent;
  out["state"] = kStates[std::min(state, kStates.size() - 1)];
  out["due_ns"] = entry.due_ns.load_relaxed();
  return out;
}

}  // namespace

void bind_turns(nb::module_& module) {
  nb::class_<TurnBoard>(module, "TurnBoard")
      .def_static(
          "create",
          [](const std::string& device) { return take_or_raise(TurnBoard::create(device)); },
          nb::arg("device"))
      .def_static(
          "open", [](int fd) { return take_or_raise(TurnBoard::open(fd)); }, nb::arg("fd"))
      .def_prop_ro("fd", &TurnBoard::fd)
      .def_prop_ro("generation", [](TurnBoard& self) { return self.header().generation; })
      .def_prop_ro("limit_percent",
                   [](TurnBoard& self) -> std::optional<double> {
                     const std::uint32_t limit = self.header().limit_ppm.load();
                     if (limit == 0) return std::nullopt;
                     return limit / kPpmPerPercent;
                   })
      .def(
          "set_limit",
          [](TurnBoard& self, std::optional<double> limit_percent) {
            self.set_limit(limit_ppm(limit_percent));
          },
          nb::arg("limit_percent").none())
      .def(
          "add",
          [](TurnBoard& self, std::uint64_t segment, std::uint32_t instance, std::int32_t pid,
             double share_percent) {
            return take_or_raise(self.add(segment, instance, pid, ppm(share_percent)));
          },
          nb::arg("segment"), nb::arg("instance"), nb::arg("pid"), nb::arg("share_percent"))
      .def(
          "remove",
          [](TurnBoard& self, std::uint32_t entry) {
            entry_at(self, entry);
            self.remove(entry);
          },
          nb::arg("entry"))
      .def(
          "set_share",
          [](TurnBoard& self, std::uint32_t entry, double share_percent) {
            entry_at(self, entry);
            self.set_share(entry, ppm(share_percent));
          },
          nb::arg("entry"), nb::arg("share_percent"))
      .def(
          "waits",
          [](TurnBoard& self, std::uint32_t entry) {
            return entry_at(self, entry).state.load() == TurnState::kWaiting;
          },
          nb::arg("entry"))
      .def("entries", [](TurnBoard& self) {
        nb::dict out;
        for (std::uint32_t i = 0; i < kMaxTurns; ++i)
          if (self.entry(i).state.load() != TurnState::kAbsent) out[nb::int_(i)] = as_dict(self, i);
        return out;
      });
}

}  // namespace gslice
