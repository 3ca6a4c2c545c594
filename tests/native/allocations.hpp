// Counts every `new` of the program, and can refuse some: allocations.cpp has the definitions.
#pragma once

#include <atomic>
#include <cstddef>

namespace gslice::test {
inline std::atomic<std::size_t> allocations{0};
inline std::atomic<std::size_t> refused_align{0};  // there is no memory of this alignment
}  // namespace gslice::test
