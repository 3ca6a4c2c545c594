// Deadlines, promises, and the predicted finish that admission goes by.
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;

constexpr std::int64_t kSecondNs = 1'000'000'000;

Proto with_timeout(std::int64_t timeout_us) {
  return echo_request(1).message(
      4, parameter("timeout", Proto().varint(2, static_cast<std::uint64_t>(timeout_us))));
}

// Leaves the queue as if it held so many rows that take so long by the batch.
void publish(Segment& segment, std::int64_t estimate_ns, std::int64_t queued_rows) {
  segment.header().batch_estimate_ns.store(estimate_ns);
  segment.header().queued_rows.store(queued_rows);
}

}  // namespace

TEST(deadlines) {
  FrontendBench bench(echo_signature(), 30'000'000);
  const std::int64_t before = now_ns();
  CHECK(failed(bench.submit(echo_request(1), before - 5'000'000), Code::kDeadlineExceeded,
               "function \"echo\": the deadline passed "));
  CHECK_EQ(bench.outcome(Outcome::kRejected), 1u);
  CHECK(bench.idle());

  // The caller's deadline, the parameter's, and the earlier of both.
  TicketId id = ok(bench.submit(echo_request(1), before + kSecondNs));
  CHECK_EQ(ok(bench.frontend.deadline_ns(id)), before + kSecondNs);
  CHECK_EQ(std::int64_t{bench.slot(id).deadline_ns}, before + kSecondNs);
  bench.frontend.cancel(id);
  id = ok(bench.submit(with_timeout(2'000'000), before + kSecondNs));
  CHECK_EQ(ok(bench.frontend.deadline_ns(id)), before + kSecondNs);
  bench.frontend.cancel(id);
  id = ok(bench.submit(with_timeout(500'000), before + kSecondNs));
  CHECK(ok(bench.frontend.deadline_ns(id)) >= before + kSecondNs / 2);
  CHECK(ok(bench.frontend.deadline_ns(id)) <= now_ns() + kSecondNs / 2);
  bench.frontend.cancel(id);
  id = ok(bench.submit(with_timeout(std::numeric_limits<std::int64_t>::max())));
  CHECK_EQ(ok(bench.frontend.deadline_ns(id)), kNever);
  bench.frontend.cancel(id);
  CHECK(bench.idle());
}

TEST(due_by_deadline_promise_or_age) {
  for (const auto& [slo_ns, deadline_in_ns, due_in_ns] :
       std::vector<std::array<std::int64_t, 3>>{{30'000'000, 0, 30'000'000},
                                                {30 * kSecondNs, 10 * kSecondNs, 10 * kSecondNs},
                                                {0, 0, kSecondNs},
                                                {0, 5 * kSecondNs, kSecondNs}}) {
    FrontendBench bench(echo_signature(), slo_ns);
    const std::int64_t before = now_ns();
    const std::int64_t deadline = deadline_in_ns == 0 ? kNever : before + deadline_in_ns;
    const TicketId id = ok(bench.submit(echo_request(1), deadline));
    CHECK(bench.slot(id).due_ns >= before + due_in_ns);
    CHECK(bench.slot(id).due_ns <= now_ns() + due_in_ns);
  }
}

TEST(predicted_finish_is_pure_and_saturates) {
  const auto finish = [](Load load, std::uint32_t rows) {
    return predicted_finish_ns(load, rows, 1000);
  };
  CHECK_EQ(finish({0, 100, 4, 1}, 1), 1000);  // no estimate yet
  CHECK_EQ(finish({10, 0, 4, 1}, 1), 1010);   // its own batch
  CHECK_EQ(finish({10, 3, 4, 1}, 1), 1010);   // shares the batch ahead
  CHECK_EQ(finish({10, 4, 4, 1}, 1), 1020);   // the next one
  CHECK_EQ(finish({10, 16, 4, 2}, 1), 1030);  // 5 batches on 2 instances
  CHECK_EQ(finish({10, -7, 0, 0}, 0), 1010);  // a drifted hint, not batchable
  CHECK_EQ(finish({kNever / 2, 100, 1, 1}, 1), kNever);
}

TEST(predicted_finish_turns_away_at_once) {
  FrontendBench bench;
  publish(*bench.segment, 10'000'000, 80);  // 11 batches of 8: 110 ms
  const auto late = bench.submit(echo_request(1), now_ns() + 50'000'000);
  CHECK(failed(late, Code::kDeadlineExceeded, "the answer is predicted in 110.000 ms"));
  CHECK(failed(late, Code::kDeadlineExceeded, "after the deadline in "));
  CHECK_EQ(bench.outcome(Outcome::kRejected), 1u);
  CHECK(bench.submit(echo_request(1), now_ns() + kSecondNs).ok());
  CHECK(bench.submit(echo_request(1)).ok());

  // A second instance that pulls halves the wait.
  publish(*bench.segment, 10'000'000, 80);
  CHECK(!bench.submit(echo_request(1), now_ns() + 80'000'000).ok());
  const std::uint16_t second = ok(bench.segment->add_instance());
  bench.segment->flip(kNobody, second);
  CHECK(bench.submit(echo_request(1), now_ns() + 80'000'000).ok());
}

// The first batch was slow, and no deadline is as long: who finds nobody ahead of him is let in, so
// that his batch can put the estimate right.
TEST(a_bad_estimate_turns_nobody_away_for_good) {
  FrontendBench bench;
  bench.segment->header().batch_estimate_ns.store(2 * kSecondNs);
  CHECK(failed(bench.submit(echo_request(1), now_ns() - 1), Code::kDeadlineExceeded, "passed"));
  CHECK(bench.submit(echo_request(1), now_ns() + kSecondNs).ok());
  CHECK(failed(bench.submit(echo_request(1), now_ns() + kSecondNs), Code::kDeadlineExceeded,
               "1 rows are queued"));
  CHECK_EQ(bench.serve(), 1u);
  CHECK(bench.submit(echo_request(1), now_ns() + kSecondNs).ok());
}

TEST(overload_sheds_what_would_break_the_promise) {
  FrontendBench bench;
  const auto shed_within = [&](std::int64_t within_ns) {
    publish(*bench.segment, 10'000'000, 16);  // 3 batches of 8, and one under way: 40 ms
    bench.segment->header().admit_within_ns.store(within_ns);
    return bench.submit(echo_request(1));
  };
  CHECK(shed_within(0).ok());
  CHECK(shed_within(40'000'000).ok());
  const auto late = shed_within(39'000'000);
  CHECK(failed(late, Code::kResourceExhausted,
               "overload: the answer is predicted in 30.000 ms behind the batch under way, not "
               "within 39.000 ms"));
  CHECK_EQ(bench.outcome(Outcome::kRejected), 1u);
  // Its own deadline is told where that is what it would miss, and an empty queue lets in.
  bench.segment->header().queued_rows.store(16);
  CHECK(failed(bench.submit(echo_request(1), now_ns() + 20'000'000), Code::kDeadlineExceeded,
               "after the deadline in "));
  publish(*bench.segment, 10'000'000, 0);
  bench.segment->header().admit_within_ns.store(1);
  CHECK(bench.submit(echo_request(1)).ok());
}
