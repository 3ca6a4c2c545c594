// When a lane is looked at: pure decisions over a clock that is handed in.
#include "check.hpp"
#include "cuda/poll_schedule.hpp"

using gslice::cuda::PollSchedule;

namespace {

constexpr std::int64_t kUs = 1000;

// Follows the schedule from `began_ns` to the end of a batch: how late that was seen, and by how
// many looks.
struct Seen {
  std::int64_t late_ns = 0;
  int looks = 0;
};

Seen follow(PollSchedule& schedule, std::uint32_t bucket, std::int64_t began_ns,
            std::int64_t duration_ns) {
  constexpr std::int64_t kLookNs = 500;  // what asking takes
  schedule.began(bucket, began_ns);
  Seen seen;
  std::int64_t now_ns = began_ns;
  while (now_ns < began_ns + duration_ns) {
    const std::int64_t next_ns = schedule.next_ns(now_ns);
    CHECK(next_ns >= now_ns);
    now_ns = std::max(next_ns, now_ns + kLookNs);
    ++seen.looks;
  }
  schedule.ended(now_ns);
  seen.late_ns = now_ns - began_ns - duration_ns;
  return seen;
}

}  // namespace

TEST(the_first_batch_is_asked_for_ever_more_rarely) {
  PollSchedule schedule;
  const Seen seen = follow(schedule, 1, 5 * kUs, 10'000 * kUs);
  CHECK(seen.late_ns <= 200 * kUs);
  CHECK(seen.looks < 150);
}

TEST(what_has_settled_is_seen_at_once_for_few_looks) {
  PollSchedule schedule;
  std::int64_t now_ns = 0;
  for (const std::int64_t duration_ns : {80 * kUs, 1'000 * kUs, 20'000 * kUs}) {
    const auto bucket = static_cast<std::uint32_t>(duration_ns / kUs);
    Seen seen;
    for (int i = 0; i < 50; ++i) {
      seen = follow(schedule, bucket, now_ns, duration_ns + i % 2 * kUs);
      now_ns += 2 * duration_ns;
    }
    CHECK(seen.late_ns <= kUs);
    CHECK(seen.looks <= 150);
  }
}

TEST(buckets_are_learnt_apart) {
  PollSchedule schedule;
  for (int i = 0; i < 20; ++i) {
    follow(schedule, 1, 0, 100 * kUs);
    follow(schedule, 8, 0, 3'000 * kUs);
  }
  CHECK(follow(schedule, 1, 0, 100 * kUs).late_ns <= kUs);
  CHECK(follow(schedule, 8, 0, 3'000 * kUs).late_ns <= kUs);
}

TEST(an_early_and_a_late_end_are_seen_within_the_longest_sleep) {
  PollSchedule schedule;
  for (int i = 0; i < 20; ++i) follow(schedule, 1, 0, 10'000 * kUs);
  CHECK(follow(schedule, 1, 0, 2'000 * kUs).late_ns <= 200 * kUs);
  CHECK(follow(schedule, 1, 0, 60'000 * kUs).late_ns <= 200 * kUs);
}

TEST(the_wait_for_a_batch_that_hangs_does_not_spin) {
  PollSchedule schedule;
  for (int i = 0; i < 20; ++i) follow(schedule, 1, 0, 100 * kUs);
  const Seen seen = follow(schedule, 1, 0, 1'000'000 * kUs);
  CHECK(seen.looks < 6'000);
}
