// QuotaBoard as Python sees it, and what front-ends are told of tenants.
#include "bind/access.hpp"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/arguments.hpp"
#include "bind/errors.hpp"
#include "bind/module.hpp"

namespace nb = nanobind;

namespace gslice {

std::unique_ptr<Tenants> open_tenants(std::uint16_t frontend, const nb::list& given, int board_fd) {
  if (given.size() == 0) return nullptr;
  std::vector<Tenant> tenants;
  for (const nb::handle each : given) {
    const auto entry = nb::cast<nb::tuple>(each);
    tenants.push_back({nb::cast<std::string>(entry[0]),
                       nb::cast<std::vector<std::string>>(entry[1]),
                       nb::cast<std::int64_t>(entry[2]), nb::cast<std::uint32_t>(entry[3]),
                       nb::cast<std::uint32_t>(entry[4])});
  }
  return take_or_raise(Tenants::open(frontend, std::move(tenants), board_fd));
}

void bind_access(nb::module_& module) {
  module.attr("MAX_TENANTS") = kMaxTenants;
  nb::class_<QuotaBoard>(module, "QuotaBoard")
      .def_static("create", [] { return take_or_raise(QuotaBoard::create()); })
      .def_prop_ro("fd", &QuotaBoard::fd)
      .def(
          "under_way",
          [](QuotaBoard& self, std::uint32_t tenant) {
            return self.under_way(checked_index(tenant, kMaxTenants, "tenant"));
          },
          nb::arg("tenant"))
      .def(
          "clear",
          [](QuotaBoard& self, std::uint32_t frontend) { self.clear(frontend_index(frontend)); },
          nb::arg("frontend"));
}

}  // namespace gslice
