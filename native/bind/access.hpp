// What more than one kind of front-end takes from Python of tenants.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>

#include "access/tenants.hpp"

namespace gslice {

// Each (name, functions, interval_ns, burst, requests_max); null: there are none.
std::unique_ptr<Tenants> open_tenants(std::uint16_t frontend, const nanobind::list& given,
                                      int board_fd);

}  // namespace gslice
