// When to look whether a lane's batch has ended: not before it can have, closely about when its
// like ended before, and ever more rarely after that.
#pragma once

#include <cstdint>
#include <map>

namespace gslice::cuda {

class PollSchedule {
 public:
  void began(std::uint32_t bucket, std::int64_t now_ns);
  void ended(std::int64_t now_ns);
  // When to look next, having looked at `now_ns`. Not later than that: at once, without a sleep.
  std::int64_t next_ns(std::int64_t now_ns) const;

 private:
  struct Estimate {
    std::int64_t duration_ns = 0;  // smoothed; 0: none has ended yet
    std::int64_t spread_ns = 0;    // smoothed distance from it
  };

  std::map<std::uint32_t, Estimate> estimates_;  // by bucket
  Estimate* estimate_ = nullptr;                 // of the batch that runs
  std::int64_t began_ns_ = 0;
};

}  // namespace gslice::cuda
