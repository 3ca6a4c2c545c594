// Tenants' quotas: the rate over several front-ends, requests under way, and functions.
#include <thread>

#include "access/tenants.hpp"
#include "check.hpp"
#include "frontend_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

constexpr std::int64_t kMs = 1'000'000;

std::unique_ptr<Tenants> tenants_of(QuotaBoard& board, std::vector<Tenant> tenants,
                                    std::uint16_t frontend = 0) {
  return ok(Tenants::open(frontend, std::move(tenants), board.fd()));
}

Origin of(TenantId tenant) {
  Origin origin;
  origin.tenant = tenant;
  return origin;
}

}  // namespace

TEST(a_rate_lets_a_burst_in_and_then_one_each_interval) {
  auto board = ok(QuotaBoard::create());
  const std::int64_t start = 5'000 * kMs;
  for (int i = 0; i < 3; ++i) CHECK_EQ(board->take(0, 10 * kMs, 3, start), 0);
  CHECK_EQ(board->take(0, 10 * kMs, 3, start), 10 * kMs);  // what is refused takes nothing
  CHECK_EQ(board->take(0, 10 * kMs, 3, start + 4 * kMs), 6 * kMs);
  CHECK_EQ(board->take(0, 10 * kMs, 3, start + 10 * kMs), 0);
  CHECK_EQ(board->take(0, 10 * kMs, 3, start + 10 * kMs), 10 * kMs);
  for (int i = 0; i < 3; ++i) CHECK_EQ(board->take(0, 10 * kMs, 3, start + 100 * kMs), 0);
  CHECK_EQ(board->take(0, 10 * kMs, 3, start + 100 * kMs), 10 * kMs);  // rest is not saved up
  CHECK_EQ(board->take(1, 10 * kMs, 1, start + 100 * kMs), 0);  // another tenant's is its own
}

TEST(front_ends_share_a_rate_and_take_it_exactly) {
  auto board = ok(QuotaBoard::create());
  std::atomic<int> taken = 0;
  std::vector<std::thread> frontends;
  for (int i = 0; i < 4; ++i)
    frontends.emplace_back([&] {
      auto own = ok(QuotaBoard::open(board->fd()));
      for (int n = 0; n < 200; ++n) taken += own->take(7, 1'000 * kMs, 50, kMs) == 0;
    });
  for (auto& each : frontends) each.join();
  CHECK_EQ(taken.load(), 50);
}

TEST(requests_under_way_are_counted_over_front_ends) {
  auto board = ok(QuotaBoard::create());
  CHECK(board->begin(3, 0, 2));
  CHECK(board->begin(3, 1, 2));
  CHECK(!board->begin(3, 0, 2));
  CHECK_EQ(board->under_way(3), 2u);
  board->end(3, 0);
  CHECK(board->begin(3, 1, 2));
  board->clear(1);  // it has died
  CHECK_EQ(board->under_way(3), 0u);
}

TEST(a_board_of_another_build_is_refused) {
  CHECK(failed(QuotaBoard::open(-1), Code::kInternal, "not a quota board"));
  auto segment = make_segment();
  CHECK(failed(QuotaBoard::open(segment->fd()), Code::kInternal, "not a quota board"));
  std::vector<Tenant> many(kMaxTenants + 1);
  auto board = ok(QuotaBoard::create());
  CHECK(
      failed(Tenants::open(0, std::move(many), board->fd()), Code::kInvalidArgument, "65 tenants"));
}

TEST(a_tenant_has_functions_of_its_own) {
  auto board = ok(QuotaBoard::create());
  auto tenants = tenants_of(*board, {{"shop", {"detector", "shop-*"}}, {"all", {"*"}}});
  for (const auto* name : {"detector", "shop-", "shop-x"})
    CHECK(tenants->check_function(0, name).ok());
  for (const auto* name : {"detector2", "shop", "other", ""}) {
    const Status status = tenants->check_function(0, name);
    CHECK_EQ(status.code, Code::kPermissionDenied);
    CHECK_EQ(status.message, "it is not one of tenant \"shop\"");
    CHECK(tenants->check_function(1, name).ok());
  }
}

TEST(requests_of_a_tenant_hold_their_place_until_they_are_answered) {
  auto board = ok(QuotaBoard::create());
  FrontendBench bench;
  bench.frontend.set_tenants(tenants_of(*board, {{"shop", {"echo"}, 0, 1, 2}, {"none", {"x"}}}));
  const auto submit = [&](TenantId tenant) {
    return bench.frontend.submit(echo_request(1).bytes(), kNever, 0, of(tenant));
  };
  CHECK(failed(submit(1), Code::kPermissionDenied, "function \"echo\": it is not one of tenant"));
  const TicketId first = ok(submit(0));
  const TicketId second = ok(submit(0));
  CHECK(failed(submit(0), Code::kResourceExhausted, "has 2 requests under way, as many as it may"));
  const TicketId others = ok(submit(kNoTenant));
  CHECK_EQ(board->under_way(0), 2u);
  bench.frontend.cancel(second);
  CHECK_EQ(board->under_way(0), 1u);
  CHECK_EQ(bench.serve(), 2u);
  for (const TicketId done : bench.take_done()) CHECK(done == first || done == others);
  ok(bench.answer(first));
  ok(bench.answer(others));
  CHECK_EQ(board->under_way(0), 0u);
  CHECK(bench.idle());
  CHECK_EQ(bench.outcome(Outcome::kInvalid), 1u);
  CHECK_EQ(bench.outcome(Outcome::kRejected), 1u);
}

TEST(what_is_refused_for_anything_else_takes_nothing_of_the_rate) {
  auto board = ok(QuotaBoard::create());
  FrontendBench bench;
  bench.frontend.set_tenants(tenants_of(*board, {{"shop", {"*"}, 3'600'000 * kMs, 1, 0}}));
  const auto submit = [&](const Proto& message) {
    return bench.frontend.submit(message.bytes(), kNever, 0, of(0));
  };
  CHECK(failed(submit(echo_request(99)), Code::kInvalidArgument, "rows"));
  const TicketId id = ok(submit(echo_request(1)));
  const auto refused = submit(echo_request(1));
  CHECK(failed(refused, Code::kResourceExhausted, "tenant \"shop\" has used up its rate"));
  CHECK(refused.status().retry_after_ms > 3'000'000);
  CHECK_EQ(board->under_way(0), 1u);
  bench.frontend.cancel(id);
  CHECK_EQ(board->under_way(0), 0u);
  CHECK(bench.idle());
}

TEST(requests_in_flight_count_for_their_tenant_when_tenants_change) {
  auto board = ok(QuotaBoard::create());
  FrontendBench bench;
  const Tenant shop{"shop", {"*"}}, bank{"bank", {"*"}};
  bench.frontend.set_tenants(tenants_of(*board, {shop, bank}));
  const TicketId first = ok(bench.frontend.submit(echo_request(1).bytes(), kNever, 0, of(0)));
  const TicketId second = ok(bench.frontend.submit(echo_request(1).bytes(), kNever, 0, of(1)));
  bench.frontend.set_tenants(tenants_of(*board, {bank}));
  CHECK_EQ(board->under_way(0), 1u);  // the bank's; nobody knows the shop any more
  CHECK_EQ(board->under_way(1), 0u);
  bench.frontend.cancel(first);
  CHECK_EQ(board->under_way(0), 1u);
  bench.frontend.set_tenants(nullptr);
  bench.frontend.cancel(second);
  CHECK(bench.idle());
}

TEST(a_request_that_ends_before_new_tenants_are_the_tenants_is_counted_once) {
  auto board = ok(QuotaBoard::create());
  FrontendBench bench;
  bench.frontend.set_tenants(tenants_of(*board, {{"shop", {"*"}}}));
  const TicketId first = ok(bench.frontend.submit(echo_request(1).bytes(), kNever, 0, of(0)));
  const TicketId second = ok(bench.frontend.submit(echo_request(1).bytes(), kNever, 0, of(0)));
  auto next = tenants_of(*board, {{"shop", {"*"}}});  // another thread opens them
  bench.frontend.cancel(first);
  CHECK_EQ(board->under_way(0), 1u);
  bench.frontend.set_tenants(std::move(next));
  CHECK_EQ(board->under_way(0), 1u);
  bench.frontend.cancel(second);
  CHECK_EQ(board->under_way(0), 0u);
  CHECK(bench.idle());
}
