// The bytes of the board on which front-ends count what tenants take. Shared between processes that
// may run different builds, so it is versioned, asserted below, and holds no pointers.
#pragma once

#include <array>
#include <cstdint>

#include "base/atomic.hpp"
#include "segment/layout.hpp"

namespace gslice {

inline constexpr std::uint64_t kQuotaBoardMagic = 0x313061746f757167;  // "gquota01", little endian
inline constexpr std::uint32_t kQuotaBoardVersion = 1;
inline constexpr std::size_t kMaxTenants = 64;

// A tenant's. Zeros: it has taken nothing.
struct alignas(64) QuotaEntry {
  // Up to when the rate is used up: each request moves it on by the time that is between two.
  Shared<std::int64_t> used_until_ns;
  // Requests under way at each front-end, written by that one alone: those of one that dies are
  // known.
  std::array<Shared<std::uint32_t>, kMaxFrontends> under_way;
};

struct QuotaBoardHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t board_bytes = 0;  // another build's layout is refused
  std::array<QuotaEntry, kMaxTenants> entries;
};

static_assert(sizeof(QuotaEntry) == 128);

}  // namespace gslice
