#include "base/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "base/clock.hpp"

namespace gslice {

static_assert(sizeof(Shared<std::uint32_t>) == sizeof(std::uint32_t));

void futex_wait(Shared<std::uint32_t>& word, std::uint32_t expected, std::int64_t until_ns) {
  timespec until{};
  if (until_ns != kNever) {
    until.tv_sec = until_ns / 1'000'000'000;
    until.tv_nsec = until_ns % 1'000'000'000;
  }
  // FUTEX_WAIT_BITSET takes an absolute time, so an early return needs no arithmetic to go on.
  syscall(SYS_futex, &word.raw(), FUTEX_WAIT_BITSET, expected,
          until_ns == kNever ? nullptr : &until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(Shared<std::uint32_t>& word) {
  syscall(SYS_futex, &word.raw(), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace gslice
