// Functions that come, go, and are replaced while requests are in flight.
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_view_literals;

}  // namespace

TEST(remove_keeps_the_segment_until_the_last_answer) {
  FrontendBench bench;
  std::weak_ptr<Segment> watch = bench.segment;
  const TicketId id = ok(bench.submit(echo_request(1)));
  bench.frontend.remove_function("echo");
  bench.frontend.remove_function("echo");
  CHECK(failed(bench.submit(echo_request(1)), Code::kNotFound, "\"echo\" is not served here"));
  bench.serve();
  bench.segment.reset();
  CHECK(!watch.expired());
  CHECK(bench.take_done() == std::vector{id});
  CHECK(bench.answer(id).ok());
  CHECK(watch.expired());
}

TEST(replace_serves_both_until_the_old_is_done) {
  FrontendBench bench;
  const TicketId old_id = ok(bench.submit(echo_request(1, "old")));
  FrontendBench other(echo_signature(), 0, make_segment());
  CHECK(bench.frontend.add_function("echo", "2", other.segment, echo_signature(), 0).ok());
  const TicketId new_id = ok(bench.submit(echo_request(2, "new")));
  CHECK(old_id >> 48 != new_id >> 48);
  CHECK_EQ(bench.serve(), 1u);
  CHECK_EQ(other.serve(), 1u);
  CHECK(bench.take_done() == (std::vector{old_id, new_id}));
  CHECK(ok(bench.answer(new_id))
            .find("\x12\x01"
                  "2") != std::string::npos);
  CHECK(ok(bench.answer(old_id))
            .find("\x12\x01"
                  "1") != std::string::npos);
  CHECK_EQ(bench.frontend.in_flight(), 0u);
}

TEST(a_function_that_comes_back_finishes_what_it_had) {
  FrontendBench bench;
  const TicketId before = ok(bench.submit(echo_request(1, "before")));
  bench.frontend.remove_function("echo");
  CHECK(!bench.submit(echo_request(1)).ok());
  const auto again = ok(Segment::open(bench.segment->fd()));
  CHECK(bench.frontend.add_function("echo", "1", again, echo_signature(), 0).ok());
  const TicketId after = ok(bench.submit(echo_request(2, "after")));
  while (bench.serve() != 0) {
  }
  CHECK(bench.take_done() == (std::vector{before, after}));
  CHECK(ok(bench.answer(before)).find("before") != std::string::npos);
  CHECK(ok(bench.answer(after)).find("after") != std::string::npos);
  CHECK(bench.idle());
}

TEST(a_removed_front_end_is_told) {
  const auto segment = make_segment();
  FrontendBench bench(echo_signature(), 0, segment);
  segment->reap_frontend(0);
  CHECK(failed(bench.submit(echo_request(1)), Code::kUnavailable, "function \"echo\": "));
  CHECK(bench.idle());
}

TEST(names_that_cannot_be_served) {
  Frontend frontend(0);
  const auto segment = make_segment();
  const auto add = [&](std::string name, std::string version) {
    return frontend.add_function(std::move(name), std::move(version), segment, echo_signature(), 0);
  };
  CHECK(add("f", "1").ok());
  CHECK(!add("", "1").ok());
  CHECK(!add("\xff", "1").ok());
  CHECK(!add("f", "\xff").ok());
}
