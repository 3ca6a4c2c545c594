// Sleeping on a word of shared memory. The interleaving tests define these two themselves, so that
// a sleep is a fiber that cannot run.
#pragma once

#include <cstdint>

#include "base/atomic.hpp"

namespace gslice {

// Sleeps while `word` is `expected`, at most until `until_ns` (CLOCK_MONOTONIC; kNever: no limit).
// May return early for no reason. Not a private futex: the other side is another process.
void futex_wait(Shared<std::uint32_t>& word, std::uint32_t expected, std::int64_t until_ns);
void futex_wake(Shared<std::uint32_t>& word);

}  // namespace gslice
