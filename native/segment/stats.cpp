// Histograms of durations: 16 steps an octave, exact microseconds below 16.
#include <algorithm>
#include <bit>
#include <cmath>

#include "segment/segment.hpp"

namespace gslice {

namespace {

constexpr unsigned kStepBits = std::countr_zero(kHistogramSteps);

}  // namespace

std::size_t histogram_bin(std::int64_t duration_ns) {
  if (duration_ns <= 0) return 0;
  const auto us = static_cast<std::uint64_t>(duration_ns) / 1000;
  if (us < kHistogramSteps) return us;
  const unsigned octave = static_cast<unsigned>(std::bit_width(us)) - 1 - kStepBits;  // above 16 us
  const std::size_t bin = (octave + 1) * kHistogramSteps + ((us >> octave) - kHistogramSteps);
  return std::min(bin, kHistogramBins - 1);
}

double histogram_bin_lower_us(std::size_t bin) {
  if (bin < kHistogramSteps) return static_cast<double>(bin);
  const auto octave = static_cast<int>(bin / kHistogramSteps) - 1;
  return std::ldexp(static_cast<double>(kHistogramSteps + bin % kHistogramSteps), octave);
}

void histogram_add(Histogram& histogram, std::int64_t duration_ns) {
  const std::int64_t duration = std::max<std::int64_t>(duration_ns, 0);
  histogram.bins[histogram_bin(duration)].add_relaxed(1);
  histogram.count.add_relaxed(1);
  histogram.sum_ns.add_relaxed(static_cast<std::uint64_t>(duration));
}

}  // namespace gslice
