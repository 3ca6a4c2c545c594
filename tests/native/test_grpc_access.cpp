// Who may send requests over gRPC, by the keys that calls show.
#include "check.hpp"
#include "grpc_bench.hpp"

#if GSLICE_TLS

#include <openssl/sha.h>

namespace {

using namespace gslice;
using namespace gslice::test;
using grpc::Callers;
using grpc::KnownKey;
using grpc::Service;

constexpr int kPermissionDenied = 7, kUnauthenticated = 16;

KnownKey known(std::string name, std::string_view key, bool infers, TenantId tenant = kNoTenant) {
  KnownKey out{std::move(name), {}, infers, tenant};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), out.digest.data());
  return out;
}

void set_callers(ServerBench& bench, std::vector<KnownKey> keys,
                 std::unique_ptr<Tenants> tenants = nullptr) {
  auto callers = ok(Callers::open(std::move(keys), false));
  bench.server.run(
      [&](Service& service) { service.set_access(std::move(callers), std::move(tenants)); });
}

GrpcClient::Fields bearer(const std::string& key) { return {{"authorization", "Bearer " + key}}; }

struct Case {
  std::string authorization, api_key, told;
};

}  // namespace

TEST(callers_are_known_by_their_keys) {
  auto callers =
      ok(Callers::open({known("ann", "a-key", true, 3), known("bob", "b-key", false)}, false));
  CHECK_EQ(ok(callers.identify("Bearer a-key", "")), 3);
  CHECK_EQ(ok(callers.identify("bEaReR   a-key ", "b-key")), 3);
  CHECK_EQ(ok(callers.identify("", "a-key")), 3);
  for (const auto& [authorization, api_key, told] : std::vector<Case>{
           {"", "", "an API key with the role infer is needed"},
           {"Bearer ", "", "authorization must be `Bearer KEY`"},
           {"Basic a-key", "", "authorization must be `Bearer KEY`"},
           {"a-key", "", "authorization must be `Bearer KEY`"},
           {"Bearer a-ke", "", "the API key is not known here"},
           {"Bearer a-key2", "", "the API key is not known here"},
           {"", std::string(513, 'k'), "the API key is not known here"},
       })
    CHECK(failed(callers.identify(authorization, api_key), Code::kUnauthenticated, told));
  CHECK(failed(callers.identify("Bearer b-key", ""), Code::kPermissionDenied,
               "key 'bob' has not the role infer"));
}

TEST(whoever_shows_no_key_may_infer_where_that_is_said) {
  const auto callers = ok(Callers::open({known("ann", "a-key", true)}, true));
  CHECK_EQ(ok(callers.identify("", "")), kNoTenant);
  CHECK(failed(callers.identify("Bearer other", ""), Code::kUnauthenticated, "not known"));
  const auto keyless = ok(Callers::open({}, false));
  CHECK(failed(keyless.identify("Bearer other", ""), Code::kUnauthenticated, "is needed"));
}

TEST(a_request_without_a_key_is_refused_and_others_are_served) {
  ServerBench bench;
  set_callers(bench, {known("ann", "a-key", true), known("bob", "b-key", false)});
  GrpcClient client = bench.client();
  const std::string request = wide_request(33, 'k');  // large enough to be received into a slot
  for (int i = 0; i < 2; ++i) {
    CHECK_EQ(client.answer(client.call(request)).status(), kUnauthenticated);
    CHECK_EQ(client.answer(client.call(request, bearer("c-key"))).status(), kUnauthenticated);
    CHECK_EQ(client.answer(client.call(request, bearer("b-key"))).status(), kPermissionDenied);
    const auto& served = client.answer(client.call(request, bearer("a-key")));
    CHECK_EQ(served.status(), 0);
    CHECK(echoes(served.messages()[0], 33, 'k'));
  }
  CHECK_EQ(client.answer(client.call("", {}, kStreamPath)).status(), kUnauthenticated);
  CHECK_EQ(bench.worker.served(), 2u);
  bench.expect_idle();
}

TEST(a_stream_is_asked_again_when_keys_change) {
  ServerBench bench;
  set_callers(bench, {known("ann", "a-key", true)});
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin(kStreamPath, bearer("a-key"));
  const auto answers = [&] { return client.seen(stream).messages().size(); };
  client.send(stream, framed(wide_request(1)));
  client.until([&] { return answers() == 1; });
  set_callers(bench, {known("ann", "new-key", true)});
  client.send(stream, framed(wide_request(1)));
  client.send(stream, framed(wide_request(33)));
  client.until([&] { return answers() == 3; });
  for (std::size_t i : {1u, 2u})
    CHECK(client.seen(stream).messages()[i].find("not known") != std::string::npos);
  bench.server.run([](Service& service) { service.set_access(std::nullopt, nullptr); });
  client.send(stream, framed(wide_request(1)), true);
  CHECK_EQ(client.answer(stream).status(), 0);
  CHECK_EQ(answers(), 4u);
  CHECK_EQ(bench.worker.served(), 2u);
  bench.expect_idle();
}

TEST(a_message_that_was_coming_when_keys_changed_is_refused_whole) {
  ServerBench bench;
  set_callers(bench, {known("ann", "a-key", true)});
  GrpcClient client = bench.client();
  const std::string message = framed(wide_request(40, 'm'));
  const std::int32_t stream = client.begin(kInferPath, bearer("a-key"));
  client.send(stream, message.substr(0, message.size() / 2));
  client.until([&] { return count_of(bench, SlotState::kLeased) == 1; });
  set_callers(bench, {known("ann", "new-key", true)});
  client.send(stream, message.substr(message.size() / 2), true);
  CHECK_EQ(client.answer(stream).status(), kUnauthenticated);
  CHECK_EQ(bench.worker.served(), 0u);
  bench.expect_idle();
}

TEST(a_tenant_that_is_over_its_rate_hears_when_to_come_again) {
  ServerBench bench;
  auto board = ok(QuotaBoard::create());
  auto tenants = ok(Tenants::open(0, {{"shop", {"*"}, 3'600'000'000'000, 2, 0}}, board->fd()));
  set_callers(bench, {known("ann", "a-key", true, 0)}, std::move(tenants));
  GrpcClient client = bench.client();
  for (const std::int64_t rows : {1, 33})
    CHECK_EQ(client.answer(client.call(wide_request(rows), bearer("a-key"))).status(), 0);
  for (const std::int64_t rows : {1, 33}) {
    const auto& refused = client.answer(client.call(wide_request(rows), bearer("a-key")));
    CHECK_EQ(refused.status(), kResourceExhausted);
    CHECK(std::stoll(refused.headers.at("grpc-retry-pushback-ms")) > 3'000'000);
  }
  CHECK_EQ(board->under_way(0), 0u);
  bench.expect_idle();
}

TEST(a_stream_has_its_tenants_place_among_others_when_tenants_change) {
  ServerBench bench;
  auto board = ok(QuotaBoard::create());
  const auto open = [&](std::vector<Tenant> tenants) {
    return ok(Tenants::open(0, std::move(tenants), board->fd()));
  };
  set_callers(bench, {known("ann", "a-key", true, 1)}, open({{"bank", {}}, {"shop", {"*"}}}));
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin(kStreamPath, bearer("a-key"));
  const auto answers = [&] { return client.seen(stream).messages().size(); };
  const auto sent_with_rows = [&](std::int64_t rows) {
    const std::size_t before = answers();
    client.send(stream, framed(wide_request(rows)));
    client.until([&] { return answers() == before + 1; });
    return bench.worker.served();
  };
  CHECK_EQ(sent_with_rows(1), 1u);
  set_callers(bench, {known("ann", "a-key", true, 0)}, open({{"shop", {"*"}}}));
  CHECK_EQ(sent_with_rows(33), 2u);
  set_callers(bench, {known("ann", "a-key", true)});
  CHECK_EQ(sent_with_rows(1), 3u);
  CHECK_EQ(board->under_way(0), 0u);
  client.send(stream, "", true);
  CHECK_EQ(client.answer(stream).status(), 0);
  bench.expect_idle();
}

#endif
