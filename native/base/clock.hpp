// CLOCK_MONOTONIC in nanoseconds: the one clock of segments, deadlines and stamps. It is the same
// in every process of a machine, and the same that Python's time.monotonic_ns() reads.
#pragma once

#include <time.h>

#include <cstdint>
#include <limits>

namespace gslice {

inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

inline std::int64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return std::int64_t{ts.tv_sec} * 1'000'000'000 + ts.tv_nsec;
}

}  // namespace gslice
