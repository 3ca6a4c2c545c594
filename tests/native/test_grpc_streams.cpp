// Streams of requests over the transport end to end: their order, their bounds, their ends.
#include "check.hpp"
#include "grpc_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using grpc::Service;

}  // namespace

TEST(a_stream_answers_in_order_with_errors_between) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin(kStreamPath);
  constexpr int kCount = 300;
  for (int i = 0; i < kCount; ++i)
    client.send(
        stream,
        framed(i % 7 == 3 ? std::string("\xff")
                          : wide_request(1 + i % 12, static_cast<char>(i), std::to_string(i))),
        i == kCount - 1);
  const auto& answer = client.answer(stream);
  CHECK_EQ(answer.status(), 0);
  const auto messages = answer.messages();
  CHECK_EQ(messages.size(), std::size_t{kCount});
  for (int i = 0; i < kCount; ++i) {
    const std::string& message = messages[static_cast<std::size_t>(i)];
    if (i % 7 == 3)
      CHECK(message[0] == '\x0a');  // error_message
    else
      CHECK(message[0] == '\x12' && echoes(message, 1 + i % 12, static_cast<char>(i)));
  }
  bench.expect_idle();
}

// Requests that come faster than they are answered wait in the client, not here.
TEST(a_stream_has_a_bound_on_what_is_read_ahead) {
  ConnectionBench bench(wide_segment(64, 64), {8 << 20, 6 << 20});
  int turns = 0;
  GrpcClient client(bench.connect(), 1 << 30, [&] {
    CHECK(bench.turn());
    if (++turns % 8 == 0) bench.serve();  // the client is always ahead
  });
  const std::int32_t stream = client.begin(kStreamPath);
  constexpr int kCount = 3000;  // twice the memory
  std::string all;
  for (int i = 0; i < kCount; ++i) all += framed(wide_request(1, static_cast<char>(i)));
  client.send(stream, all, true);
  const auto& answer = client.answer(stream);
  CHECK_EQ(answer.reset, NGHTTP2_NO_ERROR);
  CHECK_EQ(answer.status(), 0);
  CHECK_EQ(answer.messages().size(), std::size_t{kCount});
  CHECK(bench.idle());
}

TEST(a_message_that_began_in_what_was_kept_has_its_time) {
  ServerBench bench(wide_segment(64, 64));
  GrpcClient client = bench.client();
  bench.worker.hold();
  const std::int32_t stream = client.begin(kStreamPath);
  const std::string last = framed(wide_request(20, 'z'));
  for (int i = 0; i < 64; ++i) client.send(stream, framed(wide_request(1, 's')));
  client.send(stream, last.substr(0, 20'000));
  client.until([&] { return count_of(bench, SlotState::kQueued) == 64; });
  bench.worker.release();
  const std::size_t some_bytes = 2 * wide_tensor(1, 's').size();  // room for more was made
  client.until([&] { return client.seen(stream).body.size() > some_bytes; });
  bench.worker.hold();  // until time has been kept
  CHECK_EQ(client.answer(client.call(wide_request(1), {{"grpc-timeout", "20m"}})).status(),
           kDeadlineExceeded);
  bench.worker.release();
  client.send(stream, last.substr(20'000), true);
  CHECK_EQ(client.answer(stream).status(), 0);
  CHECK_EQ(client.seen(stream).messages().size(), 65u);
  bench.expect_idle();
}

TEST(a_stream_that_is_not_read_stops_being_answered) {
  ServerBench bench;
  GrpcClient client(bench.connect(), 1000);
  const std::int32_t stream = client.begin(kStreamPath);
  constexpr int kCount = 2000;
  std::string all;
  for (int i = 0; i < kCount; ++i) all += framed(wide_request(1, static_cast<char>(i)));
  client.send(stream, all);
  client.until([&] { return bench.worker.served() >= 64 && bench.free() == 64; });
  // What the client's window lets through has gone when these are answered.
  GrpcClient other = bench.client();
  for (int i = 0; i < 20; ++i) client.step(), other.answer(other.call(wide_request(1)));
  CHECK(bench.worker.served() <= 64 + 1 + 20);
  client.drop();
  bench.expect_idle();
}

TEST(a_stream_that_fails_gives_up_what_it_has_in_flight) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  const std::int32_t stream = client.begin(kStreamPath);
  client.send(stream, framed(wide_request(1)) + framed(wide_request(20)) + "\x01");
  bench.until([&] { return client.step(), bench.free() == 62; });
  client.send(stream, "", true);
  CHECK_EQ(client.answer(stream).status(), kInternal);
  bench.worker.release();
  bench.expect_idle();
}
