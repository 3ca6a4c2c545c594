// The transport end to end: clients on sockets, the loop, a segment, and a worker that echoes.
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>

#include "check.hpp"
#include "grpc_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using grpc::Service;

// Lets the process open no descriptor from this number on.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t end) {
    CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const rlimit lowered{end, before_.rlim_max};
    CHECK(::setrlimit(RLIMIT_NOFILE, &lowered) == 0);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  rlimit before_{};
};

}  // namespace

// ---- what the kernel does not give -------------------------------------------------------------

TEST(a_server_that_lacks_a_descriptor_does_not_open) {
  // Without transports: UBSan opens a pipe to look at an object that has virtual functions.
  const auto open = [] { return grpc::Server::open(0, kLimits, kNever / 4, nullptr); };
  const std::array<std::string, 4> lacks{"epoll", "eventfd", "eventfd", "eventfd"};
  std::array<int, 4> next{};  // numbers that it would have
  {
    std::array<grpc::Descriptor, 4> free;
    for (grpc::Descriptor& each : free) each = grpc::Descriptor(::eventfd(0, EFD_CLOEXEC));
    std::ranges::transform(free, next.begin(), &grpc::Descriptor::get);
  }
  for (std::size_t i = 0; i < lacks.size(); ++i) {
    const DescriptorLimit limit(static_cast<rlim_t>(next[i]));
    const auto server = open();
    CHECK(!server.ok());
    CHECK_EQ(server.status().code, Code::kResourceExhausted);
    CHECK_EQ(server.status().message, "the gRPC server cannot start: " + lacks[i] +
                                          ": Too many open files; raise the limit of open files "
                                          "(ulimit -n)");
  }
  CHECK(open().ok());
}

TEST(a_listener_that_cannot_be_waited_for_is_refused) {
  ServerBench bench;
  const Status status = bench.server.listen(grpc::Descriptor(::memfd_create("file", MFD_CLOEXEC)));
  CHECK_EQ(status.code, Code::kResourceExhausted);
  CHECK_EQ(status.message, "the gRPC server cannot wait for connections: Operation not permitted");
  GrpcClient client = bench.client();
  CHECK_EQ(client.answer(client.call(wide_request(1))).status(), 0);
  bench.expect_idle();
}

// ---- unary -----------------------------------------------------------------------------------

TEST(unary_of_every_size) {
  ServerBench bench;
  GrpcClient client = bench.client();
  for (const std::int64_t rows : {1, 2, 3, 8, 9, 16, 33, 64}) {
    const auto& answer = client.answer(client.call(wide_request(rows, 'a')));
    CHECK_EQ(answer.status(), 0);
    CHECK_EQ(answer.messages().size(), 1u);
    CHECK(echoes(answer.messages()[0], rows, 'a'));
    CHECK_EQ(answer.headers.at("content-type"), "application/grpc");
  }
  bench.expect_idle();
}

TEST(many_calls_at_once_on_one_connection) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  std::vector<std::int32_t> streams;
  for (int i = 0; i < 64; ++i)
    streams.push_back(client.call(wide_request(1 + i % 20, static_cast<char>('A' + i))));
  bench.until([&] { return client.step(), bench.free() == 0; });
  bench.worker.release();
  for (int i = 0; i < 64; ++i)
    CHECK(echoes(client.answer(streams[static_cast<std::size_t>(i)]).messages().at(0), 1 + i % 20,
                 static_cast<char>('A' + i)));
  bench.expect_idle();
}

// Frames that are foreseen, of which some do not come, or others between.
TEST(large_calls_that_come_by_turns) {
  ServerBench bench(wide_segment(8, 200));
  GrpcClient client = bench.client();
  constexpr std::size_t kTurnBytes = 100'000;
  for (int round = 0; round < 10; ++round) {
    std::vector<std::pair<std::int32_t, std::string>> calls;
    for (const char fill : {'a', 'b', 'c'})
      calls.emplace_back(client.begin(), framed(wide_request(200, fill)));
    const std::int32_t cancelled = client.begin();
    client.send(cancelled, framed(wide_request(200)).substr(0, 3 * kTurnBytes));
    client.reset(cancelled);
    for (std::size_t at = 0; at < calls.front().second.size(); at += kTurnBytes) {
      for (const auto& [stream, bytes] : calls)
        client.send(stream, std::string_view(bytes).substr(at, kTurnBytes),
                    at + kTurnBytes >= bytes.size());
      client.ping();
    }
    for (std::size_t i = 0; i < calls.size(); ++i)
      CHECK(echoes(client.answer(calls[i].first).messages().at(0), 200, "abc"[i]));
  }
  bench.expect_idle();
}

TEST(errors_of_unary_calls) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const auto status = [&](std::string_view message, const GrpcClient::Fields& more = {}) {
    return client.answer(client.call(message, more)).status();
  };
  CHECK_EQ(status("\xff"), kInvalidArgument);
  CHECK_EQ(status(wide_request(65)), kResourceExhausted);  // more than a slot holds
  CHECK_EQ(status(std::string((8 << 20) + 1, 'x')), kResourceExhausted);
  CHECK_EQ(status(wide_request(1), {{"content-type", "text/plain"}}), kUnimplemented);
  CHECK_EQ(status(wide_request(1), {{"grpc-timeout", "soon"}}), kInternal);
  const std::int32_t none = client.begin();
  client.send(none, "", true);
  CHECK_EQ(client.answer(none).status(), kInternal);
  const std::int32_t cut = client.begin();
  client.send(cut, framed(wide_request(20)).substr(0, 50'000), true);
  CHECK_EQ(client.answer(cut).status(), kInternal);
  bench.expect_idle();
}

TEST(a_unary_call_with_two_messages_has_none_answered) {
  ServerBench bench;
  GrpcClient client = bench.client();
  for (const std::int64_t rows : {1, 20}) {
    bench.worker.hold();
    const std::int32_t stream = client.begin();
    client.send(stream, framed(wide_request(rows)) + framed(wide_request(rows)), true);
    const auto& answer = client.answer(stream);
    CHECK_EQ(answer.status(), kInternal);
    CHECK(answer.body.empty());
    bench.worker.release();
  }
  bench.expect_idle();
}

TEST(headers_that_are_too_large_end_their_call_alone) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const auto& refused =
      client.answer(client.call(wide_request(1), {{"x-large", std::string(20'000, 'x')}}));
  CHECK(refused.status() != 0);
  CHECK(refused.reset != NGHTTP2_NO_ERROR);
  CHECK_EQ(client.answer(client.call(wide_request(1))).status(), 0);
  bench.expect_idle();
}

TEST(a_client_may_end_its_call_by_trailers_or_an_empty_frame) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin();
  client.send(stream, framed(wide_request(20)));
  client.send(stream, "", true);
  CHECK_EQ(client.answer(stream).status(), 0);
  bench.expect_idle();
}

// ---- time ------------------------------------------------------------------------------------

TEST(a_deadline_ends_a_call_that_waits) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  const auto waiting = client.call(wide_request(1), {{"grpc-timeout", "20m"}});
  const auto partial = client.begin(kInferPath, {{"grpc-timeout", "20m"}});
  client.send(partial, framed(wide_request(20)).substr(0, 60'000));
  CHECK_EQ(client.answer(waiting).status(), kDeadlineExceeded);
  CHECK_EQ(client.answer(partial).status(), kDeadlineExceeded);
  bench.worker.release();
  bench.expect_idle();
}

TEST(a_message_whose_rest_does_not_come_gives_its_slot_back) {
  ServerBench bench(wide_segment(8, 64), {8 << 20, 32 << 20, 20'000'000});
  GrpcClient client = bench.client();
  std::vector<std::int32_t> streams;
  for (int i = 0; i < 8; ++i) {
    streams.push_back(client.begin());
    client.send(streams.back(), framed(wide_request(20)).substr(0, 60'000));
  }
  for (const std::int32_t stream : streams)
    CHECK_EQ(client.answer(stream).status(), kDeadlineExceeded);
  bench.expect_idle();
}

TEST(a_message_that_trickles_in_ends_its_call) {
  ServerBench bench(wide_segment(8, 64), {8 << 20, 32 << 20, 50'000'000});
  GrpcClient client = bench.client();
  const std::string whole = framed(wide_request(4));
  const std::int32_t stream = client.begin();
  std::int64_t next_ns = now_ns();
  std::size_t sent_bytes = 0;
  bench.until([&] {
    if (now_ns() >= next_ns) {
      CHECK(sent_bytes < whole.size());
      client.send(stream, whole.substr(sent_bytes++, 1));
      next_ns += 1'000'000;
    }
    client.step();
    return client.seen(stream).ended;
  });
  CHECK_EQ(client.seen(stream).status(), kDeadlineExceeded);
  bench.expect_idle();
}

TEST(who_sends_slowly_has_half_of_the_slots_at_most) {
  ServerBench bench(wide_segment(8, 64));
  GrpcClient slow = bench.client(), quick = bench.client();
  std::vector<std::int32_t> streams;
  const std::string whole = framed(wide_request(20, 's'));
  for (int i = 0; i < 8; ++i) {
    streams.push_back(slow.begin());
    slow.send(streams.back(), whole.substr(0, 60'000));
  }
  bench.until([&] { return slow.step(), bench.free() == 4; });
  for (int i = 0; i < 20; ++i) CHECK_EQ(quick.answer(quick.call(wide_request(20))).status(), 0);
  for (const std::int32_t stream : streams) slow.send(stream, whole.substr(60'000), true);
  for (const std::int32_t stream : streams)
    CHECK(echoes(slow.answer(stream).messages().at(0), 20, 's'));
  bench.expect_idle();
}

// ---- readers that are slow -------------------------------------------------------------------

TEST(answers_that_are_not_read_leave_their_slots) {
  ServerBench bench(wide_segment(8, kLargeRows));
  GrpcClient slow = bench.client(), quick = bench.client();
  const auto streams = call_and_read_nothing(bench, slow, 8);
  bench.until([&] { return bench.memory_bytes() > 0 && bench.free() == 8; });
  CHECK_EQ(quick.answer(quick.call(wide_request(60))).status(), 0);
  slow.deaf = false;
  for (const std::int32_t stream : streams)
    CHECK(echoes(slow.answer(stream).messages().at(0), kLargeRows, 's'));
  bench.expect_idle();
}

constexpr Service::Limits kLendLong{
    .message_max_bytes = 8 << 20, .memory_max_bytes = 32 << 20, .lent_ns = kNever / 4};

TEST(slots_come_back_when_calls_are_cancelled_that_wait_for_the_socket) {
  ServerBench bench(wide_segment(8, kLargeRows), kLendLong);
  GrpcClient client = bench.client();
  const auto streams = call_and_read_nothing(bench, client, 8);
  bench.until([&] { return count_of(bench, SlotState::kClaimed) == 0 && bench.free() < 8; });
  for (const std::int32_t stream : streams) client.reset(stream);
  bench.until([&] { return client.step(), bench.free() == 8; });
}

TEST(slots_come_back_when_calls_are_cancelled_that_wait_for_their_window) {
  ServerBench bench(wide_segment(8, 64), kLendLong);
  GrpcClient client(bench.connect(), 1000);
  std::vector<std::int32_t> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(client.call(wide_request(60)));
  for (const std::int32_t stream : streams)
    client.until([&] { return !client.seen(stream).body.empty(); });
  for (const std::int32_t stream : streams) client.reset(stream);
  bench.until([&] { return client.step(), bench.free() == 8; });
}

TEST(an_answer_that_has_no_memory_to_wait_in_ends_its_call) {
  ServerBench bench(wide_segment(8, 64), {8 << 20, 100'000});
  GrpcClient client(bench.connect(), 1000);
  std::vector<std::int32_t> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(client.call(wide_request(60)));
  for (const std::int32_t stream : streams)
    CHECK_EQ(client.answer(stream).reset, NGHTTP2_ENHANCE_YOUR_CALM);
  bench.expect_idle();
}

TEST(an_answer_of_which_nothing_is_read_ends_its_call) {
  ServerBench bench(
      wide_segment(8, 64),
      {.message_max_bytes = 8 << 20, .memory_max_bytes = 32 << 20, .unread_ns = 50'000'000});
  GrpcClient client(bench.connect(), 1000);  // its connection goes on
  const auto stream = client.call(wide_request(60));
  CHECK_EQ(client.answer(stream).reset, NGHTTP2_ENHANCE_YOUR_CALM);
  bench.expect_idle();
}

TEST(slots_come_back_when_nobody_reads_and_there_is_no_memory) {
  ServerBench bench(wide_segment(8, kLargeRows), {8 << 20, 100'000});
  GrpcClient slow = bench.client(), quick = bench.client();
  call_and_read_nothing(bench, slow, 8);
  bench.until([&] { return bench.free() == 8; });
  CHECK_EQ(quick.answer(quick.call(wide_request(1))).status(), 0);
  slow.drop();
  bench.expect_idle();
}
