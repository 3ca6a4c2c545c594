// What the data path records of single requests: which ones, with which moments, and how many.
#include <string>
#include <vector>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_literals;

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c", kParent = "b7ad6b7169203331";
const std::string kSampled = "00-" + kTrace + "-" + kParent + "-01";
const std::string kNotSampled = "00-" + kTrace + "-" + kParent + "-00";

int number(Code code) { return static_cast<int>(code); }

std::vector<RequestRecord> records(FrontendBench& bench) {
  return bench.frontend.take_records().records;
}

bool in_order(const RequestStamps& s) {
  return 0 < s.received_ns && s.received_ns <= s.queued_ns && s.queued_ns <= s.claimed_ns &&
         s.claimed_ns <= s.compute_ns && s.compute_ns <= s.computed_ns &&
         s.computed_ns <= s.done_ns && s.done_ns <= s.answered_ns;
}

// As `FrontendBench::serve`, but the claimant says when it computed, as a pump does.
void serve(FrontendBench& bench) {
  for (const Ticket ticket : bench.claim().slots) {
    echo(*bench.segment, bench.segment->slot(ticket.slot), 1);
    std::uint16_t wake = kNobody;
    const RunStamps stamps{now_ns(), now_ns(), now_ns()};
    bench.segment->complete(ticket, 0, Code::kOk, "", &wake, stamps);
  }
}

}  // namespace

TEST(traceparents) {
  const auto parsed = parse_traceparent(kSampled);
  CHECK(parsed.has_value());
  CHECK(parsed->sampled);
  CHECK_EQ(int{parsed->context.trace[0]}, 0x0a);
  CHECK_EQ(int{parsed->context.trace[15]}, 0x9c);
  CHECK_EQ(int{parsed->context.parent[7]}, 0x31);
  CHECK(!parse_traceparent(kNotSampled)->sampled);
  CHECK(parse_traceparent("cc-" + kTrace + "-" + kParent + "-03-more").has_value());
  const std::string zeros(32, '0');
  const std::vector<std::string> wrong{"",
                                       "00",
                                       kSampled.substr(1),
                                       kSampled + "-more",  // of version 0 nothing follows
                                       "ff-" + kTrace + "-" + kParent + "-01",
                                       "cc-" + kTrace + "-" + kParent + "-01more",
                                       "00-" + zeros + "-" + kParent + "-01",
                                       "00-" + kTrace + "-" + zeros.substr(16) + "-01",
                                       "00-0AF7651916cd43dd8448eb211c80319c-" + kParent + "-01",
                                       "00_" + kTrace + "-" + kParent + "-01"};
  for (const std::string& text : wrong) CHECK(!parse_traceparent(text).has_value());
}

TEST(callers_decide_and_chance_where_they_do_not) {
  Journal never(0, false), always(1, false), sometimes(0.25, false);
  CHECK(never.traced(kSampled).has_value());
  CHECK(!never.traced("").has_value());
  CHECK(!never.traced("nonsense").has_value());
  CHECK(!always.traced(kNotSampled).has_value());
  CHECK(always.traced("").has_value());
  CHECK(always.traced("nonsense")->trace == TraceContext{}.trace);
  int traced = 0;
  for (int i = 0; i < 4000; ++i) traced += sometimes.traced("").has_value();
  CHECK(traced > 700 && traced < 1300);  // 11 standard deviations
}

TEST(nothing_is_recorded_without_a_journal) {
  FrontendBench bench;
  const TicketId id = ok(bench.submit(echo_request(1)));
  CHECK(!bench.frontend.keeps_journal());
  bench.serve();
  ok(bench.answer(id));
  CHECK(records(bench).empty());
}

TEST(a_traced_request_has_all_its_moments) {
  FrontendBench bench;
  bench.frontend.keep_journal(0, false);
  const Proto message = echo_request(3, "mine");
  const std::int64_t received_ns = now_ns();
  const TicketId traced =
      ok(bench.frontend.submit(message.bytes(), kNever, 0, {kSampled, received_ns}));
  const TicketId other = ok(bench.submit(message));
  bench.take_done();
  serve(bench);
  ok(bench.answer(traced));
  ok(bench.answer(other));
  const auto found = records(bench);
  CHECK_EQ(found.size(), 1u);
  const RequestRecord& record = found[0];
  CHECK(record.traced);
  CHECK_EQ(int{record.context.parent[0]}, 0xb7);
  CHECK_EQ(record.function, "echo"s);
  CHECK_EQ(record.version, "1"s);
  CHECK_EQ(record.id, "mine"s);
  CHECK_EQ(record.rows, 3u);
  CHECK(record.status.ok());
  CHECK_EQ(record.stamps.received_ns, received_ns);
  CHECK(in_order(record.stamps));
  CHECK(records(bench).empty());
}

TEST(a_lent_answer_is_recorded_when_its_slot_comes_back) {
  FrontendBench bench;
  bench.frontend.keep_journal(1, false);
  const TicketId id = ok(bench.submit(echo_request(1)));
  serve(bench);
  CHECK(bench.frontend.begin_answer(id, false).ok());
  std::vector<std::byte> text;
  std::vector<wire::Bytes> pieces;
  bench.frontend.lend_answer(text, pieces);
  CHECK(records(bench).empty());
  bench.frontend.give_back(id);
  const auto found = records(bench);
  CHECK_EQ(found.size(), 1u);
  CHECK(in_order(found[0].stamps));
}

TEST(failures_are_recorded_where_they_are_wanted) {
  FrontendBench bench;
  bench.frontend.keep_journal(0, true);
  const TicketId fails = ok(bench.submit(echo_request(1, "fails")));
  bench.complete(bench.claim(), Code::kInternal, "ValueError: no such thing");
  CHECK(!bench.answer(fails).ok());
  const TicketId left = ok(bench.submit(echo_request(1, "left")));
  bench.frontend.cancel(left);
  CHECK(!bench.submit(echo_request(100, "refused")).ok());
  const TicketId good = ok(bench.submit(echo_request(1, "good")));
  serve(bench);
  ok(bench.answer(good));

  const auto found = records(bench);
  CHECK_EQ(found.size(), 3u);
  CHECK_EQ(found[0].id, "fails"s);
  CHECK_EQ(number(found[0].status.code), number(Code::kInternal));
  CHECK_EQ(found[0].status.message, "ValueError: no such thing"s);
  CHECK(found[0].stamps.claimed_ns > 0);
  CHECK_EQ(found[1].id, "left"s);
  CHECK_EQ(number(found[1].status.code), number(Code::kCancelled));
  CHECK_EQ(found[1].stamps.claimed_ns, 0);
  CHECK_EQ(found[2].id, "refused"s);
  CHECK_EQ(number(found[2].status.code), number(Code::kInvalidArgument));
  CHECK(found[2].stamps.received_ns > 0);
  CHECK_EQ(found[2].stamps.queued_ns, 0);
  for (const RequestRecord& each : found) CHECK(!each.traced);
  CHECK(bench.idle());
}

TEST(a_slot_that_is_used_again_is_not_traced_again) {
  FrontendBench bench;
  bench.frontend.keep_journal(0, false);
  const Proto message = echo_request(1);
  const TicketId traced = ok(bench.frontend.submit(message.bytes(), kNever, 0, {kSampled, 0}));
  bench.frontend.cancel(traced);
  CHECK_EQ(records(bench).size(), 1u);
  const TicketId other = ok(bench.submit(message));
  serve(bench);
  ok(bench.answer(other));
  CHECK(records(bench).empty());
}

TEST(what_nobody_takes_is_bounded) {
  Journal journal(1, true);
  for (int i = 0; i < 1500; ++i) journal.add({});
  const Journal::Page page = journal.take();
  CHECK_EQ(page.records.size(), 1024u);
  CHECK_EQ(page.lost, 476u);
  CHECK_EQ(journal.take().lost, 0u);
}

TEST(stamps_of_a_worker_are_put_in_order) {
  const RequestStamps s = ordered({.received_ns = 100,
                                   .queued_ns = 200,
                                   .claimed_ns = 50,       // before it was queued
                                   .compute_ns = 0,        // never
                                   .computed_ns = 900000,  // after the end
                                   .done_ns = -5,
                                   .answered_ns = 700});
  CHECK_EQ(s.claimed_ns, 200);
  CHECK_EQ(s.compute_ns, 0);
  CHECK_EQ(s.computed_ns, 700);
  CHECK_EQ(s.done_ns, 700);
  CHECK_EQ(s.answered_ns, 700);
}
