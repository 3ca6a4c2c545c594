#include "cuda/poll_schedule.hpp"

#include <algorithm>
#include <cstdlib>

namespace gslice::cuda {
namespace {

constexpr std::int64_t kSmoothing = 8;  // a new batch counts for an eighth
constexpr std::int64_t kShortestSleepNs = 10'000;
constexpr std::int64_t kLongestSleepNs = 200'000;  // so late at most is an end seen
// Around the expected end the pump's thread spins: at least for what a sleep can overshoot by, at
// most for what an idle core may be worth.
constexpr std::int64_t kNarrowestWindowNs = 20'000;
constexpr std::int64_t kWidestWindowNs = 100'000;

}  // namespace

void PollSchedule::began(std::uint32_t bucket, std::int64_t now_ns) {
  estimate_ = &estimates_[bucket];
  began_ns_ = now_ns;
}

void PollSchedule::ended(std::int64_t now_ns) {
  const std::int64_t duration_ns = std::max<std::int64_t>(now_ns - began_ns_, 1);
  if (estimate_->duration_ns == 0) {
    estimate_->duration_ns = duration_ns;
    return;
  }
  const std::int64_t distance_ns = duration_ns - estimate_->duration_ns;
  estimate_->duration_ns += distance_ns / kSmoothing;
  estimate_->spread_ns += (std::abs(distance_ns) - estimate_->spread_ns) / kSmoothing;
}

std::int64_t PollSchedule::next_ns(std::int64_t now_ns) const {
  std::int64_t late_since_ns = began_ns_;
  if (estimate_->duration_ns != 0) {
    const std::int64_t half_ns =
        std::clamp(2 * estimate_->spread_ns, kNarrowestWindowNs, kWidestWindowNs);
    const std::int64_t expected_ns = began_ns_ + estimate_->duration_ns;
    if (now_ns < expected_ns - half_ns)
      return std::min(expected_ns - half_ns, now_ns + kLongestSleepNs);
    if (now_ns < expected_ns + half_ns) return now_ns;
    late_since_ns = expected_ns + half_ns;
  }
  return now_ns + std::clamp((now_ns - late_since_ns) / 8, kShortestSleepNs, kLongestSleepNs);
}

}  // namespace gslice::cuda
