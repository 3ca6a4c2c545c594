// What more than one part of the module takes from Python and gives back.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.hpp"
#include "bind/errors.hpp"
#include "frontend/journal.hpp"
#include "frontend/regions.hpp"
#include "segment/layout.hpp"
#include "wire/reader.hpp"
#include "wire/text.hpp"

namespace gslice {

inline wire::Bytes bytes_of(const nanobind::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

inline std::uint16_t checked_index(std::uint32_t index, std::size_t bound, const char* what) {
  if (index >= bound)
    raise(Status::Error(Code::kInvalidArgument,
                        wire::concat(what, " ", index, " is out of range; there are ", bound)));
  return static_cast<std::uint16_t>(index);
}
inline std::uint16_t instance_index(std::uint32_t index) {
  return checked_index(index, kMaxInstances, "instance");
}
inline std::uint16_t frontend_index(std::uint32_t index) {
  return checked_index(index, kMaxFrontends, "front-end");
}

inline std::optional<std::int64_t> deadline_or_none(std::int64_t deadline_ns) {
  return deadline_ns == kNever ? std::nullopt : std::optional(deadline_ns);
}

// Opens a client's region for `add(region)`, whose status it raises. Whether it is mapped.
template <typename Add>
bool add_region(std::string name, int fd, std::uint64_t offset_bytes, std::uint64_t size_bytes,
                std::string tenant, Add&& add) {
  auto region =
      take_or_raise(Region::open(std::move(name), fd, offset_bytes, size_bytes, std::move(tenant)));
  const bool mapped = region->mapped();
  raise_if(add(std::move(region)));
  return mapped;
}

// Records as `Frontend.take_records` gives them.
nanobind::tuple page_tuple(const Journal::Page& page);

}  // namespace gslice
