// How calls, connections and the server end, and what others answer for the transport.
#include <cerrno>

#include "check.hpp"
#include "grpc_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using grpc::Note;
using grpc::Service;

}  // namespace

// ---- the desk --------------------------------------------------------------------------------

namespace {

// Waits for a note of that kind; others are passed over.
Note note_of(ServerBench& bench, GrpcClient& client, Note::Kind kind) {
  Note found;
  bool there = false;
  bench.until([&] {
    client.step();
    for (Note& note : bench.server.desk().take())
      if (note.kind == kind && !there) found = std::move(note), there = true;
    return there;
  });
  return found;
}

std::string text_of(const Note& note) { return std::string(view_of(note.bytes)); }

}  // namespace

TEST(other_methods_are_served_by_the_desk) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin("/some.Service/Method", {{"grpc-timeout", "1H"}});
  const Note opened = note_of(bench, client, Note::Kind::kOpened);
  CHECK_EQ(opened.text, "/some.Service/Method");
  CHECK(opened.deadline_ns != kNever);
  client.send(stream, framed("one") + framed(""));
  CHECK_EQ(text_of(note_of(bench, client, Note::Kind::kMessage)), "one");
  const auto send = [&](std::string_view text) {
    bench.server.run(
        [&](Service& service) { service.send(opened.call, std::as_bytes(std::span(text))); });
  };
  send("first");
  CHECK_EQ(text_of(note_of(bench, client, Note::Kind::kMessage)), "");
  send("second");
  client.send(stream, framed("three", true), true);
  note_of(bench, client, Note::Kind::kHalfClosed);
  const std::string large(100'000, 'z');
  bench.server.run([&](Service& service) {
    service.send(opened.call, std::as_bytes(std::span(large)));
    service.finish(opened.call, {Code::kUnavailable, "not\nnow \xc3\xa4", 250});
    service.send(opened.call, {});  // it has ended
  });
  const auto& answer = client.answer(stream);
  CHECK_EQ(answer.status(), kUnavailable);
  CHECK_EQ(answer.headers.at("grpc-message"), "not%0Anow %C3%A4");
  CHECK_EQ(answer.headers.at("grpc-retry-pushback-ms"), "250");
  CHECK_EQ(answer.messages().size(), 3u);
  CHECK(answer.messages()[2] == large);
  CHECK_EQ(note_of(bench, client, Note::Kind::kClosed).call, opened.call);
  bench.expect_idle();
}

TEST(requests_that_are_unknown_come_back_from_the_desk) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const std::string known = wide_request(1, 'k');
  for (const bool compressed : {false, true}) {
    const std::int32_t stream = client.begin(kInferPath, {{"grpc-encoding", "gzip"}});
    client.send(stream, framed(Proto().text(1, "cold").str(), compressed), true);
    const Note note =
        note_of(bench, client, compressed ? Note::Kind::kCompressed : Note::Kind::kUnknown);
    CHECK(bench.memory_bytes() > 0);
    CHECK(bench.server
              .run([&](Service& service) {
                return service.admit(note.call, note.number, std::as_bytes(std::span(known)));
              })
              .ok());
    CHECK(echoes(client.answer(stream).messages().at(0), 1, 'k'));
  }
  const std::int32_t refused = client.call(Proto().text(1, "cold").str());
  const Note note = note_of(bench, client, Note::Kind::kUnknown);
  bench.server.run([&](Service& service) {
    service.refuse(note.call, note.number, Status::Error(Code::kNotFound, "no"));
  });
  CHECK_EQ(client.answer(refused).status(), 5);
  bench.expect_idle();
}

// A stream may send more through the desk than there is memory, as long as it is not all at once.
TEST(what_the_desk_has_dealt_with_takes_no_memory) {
  ServerBench bench(wide_segment(8, 64), {1 << 20, 1 << 20});
  GrpcClient client = bench.client();
  const std::string request = wide_request(1, 'k');
  const std::int32_t stream = client.begin(kStreamPath, {{"grpc-encoding", "gzip"}});
  const std::int32_t listed = client.begin("/some.Service/Stream");
  const Note opened = note_of(bench, client, Note::Kind::kOpened);
  for (std::size_t i = 1; i <= 10; ++i) {
    client.send(stream, framed(std::string(300'000, 'c'), true));
    const Note note = note_of(bench, client, Note::Kind::kCompressed);
    CHECK(bench.server
              .run([&](Service& service) {
                return service.admit(note.call, note.number, std::as_bytes(std::span(request)));
              })
              .ok());
    client.until([&] { return client.seen(stream).messages().size() == i; });
    client.send(listed, framed(std::string(300'000, 'c')));
    note_of(bench, client, Note::Kind::kMessage);
    bench.server.run([&](Service& service) {
      service.send(opened.call, std::as_bytes(std::span(std::string_view("listed"))));
    });
    client.until([&] { return client.seen(listed).messages().size() == i; });
  }
  client.reset(stream);
  client.reset(listed);
  bench.expect_idle();
}

// Whoever reads nothing has it answer nothing more: neither what was asked nor what is told piles
// up.
TEST(the_desk_has_one_message_of_a_call_at_a_time) {
  ServerBench bench;
  GrpcClient client = bench.client();
  const std::int32_t stream = client.begin("/some.Service/Stream");
  const Note opened = note_of(bench, client, Note::Kind::kOpened);
  constexpr std::size_t kCount = 20;
  std::string all;
  for (std::size_t i = 0; i < kCount; ++i)
    all += framed(std::string(100'000, static_cast<char>('a' + i)));
  client.send(stream, all, true);
  std::vector<Note> notes;
  for (std::size_t i = 0; i < kCount; ++i) {
    const std::size_t told = i + 1 + (i + 1 == kCount);  // that it was the last, with the last
    bench.until([&] {
      client.step();
      for (Note& note : bench.server.desk().take()) notes.push_back(std::move(note));
      return notes.size() >= told;
    });
    CHECK_EQ(notes.size(), told);
    CHECK(notes[i].kind == Note::Kind::kMessage);
    CHECK(text_of(notes[i]) == std::string(100'000, static_cast<char>('a' + i)));
    bench.server.run([&](Service& service) { service.send(opened.call, notes[i].bytes); });
  }
  CHECK(notes.back().kind == Note::Kind::kHalfClosed);
  bench.server.run([&](Service& service) { service.finish(opened.call, Status::Ok()); });
  CHECK_EQ(client.answer(stream).status(), 0);
  CHECK_EQ(client.seen(stream).messages().size(), kCount);
  bench.expect_idle();
}

TEST(answers_of_the_desk_that_nobody_reads_take_memory_that_is_counted) {
  ServerBench bench(wide_segment(8, 64), {1 << 20, 1 << 20});
  GrpcClient client = bench.client(1 << 10);  // so much of an answer it lets come
  const std::string large(400'000, 'z');
  std::vector<std::int32_t> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(client.begin("/some.Service/Method"));
    client.send(streams.back(), framed("one"), true);
    const Note note = note_of(bench, client, Note::Kind::kMessage);
    bench.server.run([&](Service& service) {
      service.send(note.call, std::as_bytes(std::span(large)));
      service.finish(note.call, Status::Ok());
    });
  }
  CHECK_EQ(client.answer(streams[2]).status(), kResourceExhausted);
  CHECK_EQ(bench.memory_bytes(), 800'000u);
  for (const std::int32_t stream : streams) client.reset(stream);
  bench.expect_idle();
}

// ---- ends ------------------------------------------------------------------------------------

TEST(cancelled_calls_leave_nothing) {
  ServerBench bench;
  GrpcClient client = bench.client();
  for (int i = 0; i < 300; ++i) {
    const std::int32_t stream = client.begin(i % 3 == 0 ? kStreamPath : kInferPath);
    const std::string whole = framed(wide_request(1 + i % 20));
    client.send(stream, whole.substr(0, i % 2 == 0 ? whole.size() : whole.size() * 2 / 3));
    if (i % 5 == 0) client.ping();
    client.reset(stream);
  }
  CHECK_EQ(client.answer(client.call(wide_request(1))).status(), 0);
  bench.expect_idle();
}

TEST(a_storm_of_resets_does_not_disturb_others) {
  ServerBench bench;
  GrpcClient storm = bench.client(), other = bench.client();
  for (int i = 0; i < 1500; ++i) {
    storm.reset(storm.call(wide_request(1)));
    if (i % 100 == 0) CHECK_EQ(other.answer(other.call(wide_request(1))).status(), 0);
  }
  bench.expect_idle();
}

TEST(leave_lets_calls_in_flight_finish) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  const std::int32_t unary = client.call(wide_request(20, 'u'));
  const std::int32_t partial = client.begin();
  const std::string whole = framed(wide_request(20, 'p'));
  client.send(partial, whole.substr(0, 50'000));
  bench.until([&] { return client.step(), bench.free() == 62; });
  bench.server.leave();
  client.until([&] { return client.going(); });
  client.send(partial, whole.substr(50'000), true);
  bench.worker.release();
  CHECK(echoes(client.answer(unary).messages().at(0), 20, 'u'));
  CHECK(echoes(client.answer(partial).messages().at(0), 20, 'p'));
  bench.until([&] { return client.step(), client.closed(); });
  GrpcClient late = bench.client();  // it listens still
  CHECK_EQ(late.answer(late.call(wide_request(1))).status(), 0);
  bench.expect_idle();
}

TEST(drain_refuses_what_is_new_and_answers_what_was_taken) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  const std::int32_t unary = client.call(wide_request(2, 'u'));
  const std::int32_t stream = client.begin(kStreamPath);
  client.send(stream, framed(wide_request(2, 's')) + framed(wide_request(20)).substr(0, 50'000));
  const std::int32_t silent = client.begin();
  const std::int32_t partial = client.begin();
  client.send(partial, framed(wide_request(20)).substr(0, 50'000));
  bench.until([&] { return client.step(), bench.free() == 60; });
  bench.server.drain();
  CHECK_EQ(client.answer(client.call(wide_request(1))).status(), kUnavailable);
  CHECK_EQ(client.answer(silent).status(), kUnavailable);
  CHECK_EQ(client.answer(partial).status(), kUnavailable);
  for (const Note& note : bench.server.desk().take()) CHECK(note.kind != Note::Kind::kIdle);
  bench.worker.release();
  CHECK_EQ(client.answer(unary).status(), 0);
  CHECK_EQ(client.answer(stream).status(), kUnavailable);
  CHECK_EQ(client.seen(stream).messages().size(), 1u);
  note_of(bench, client, Note::Kind::kIdle);
  bench.expect_idle();
}

TEST(close_ends_every_connection_in_time) {
  ServerBench bench;
  GrpcClient idle = bench.client(), busy = bench.client();
  idle.answer(idle.call(wide_request(1)));
  bench.worker.hold();
  busy.call(wide_request(1));
  bench.until([&] { return busy.step(), bench.free() == 63; });
  bench.server.close(50'000'000);
  bench.until([&] { return idle.step(), idle.closed(); });
  bench.until([&] { return busy.step(), busy.closed(); });
  bench.worker.release();
  bench.expect_idle();
}

// The last bytes of a connection that was told to go may wait for its client; then it ends as well.
TEST(a_connection_that_leaves_ends_when_its_last_answer_was_read) {
  ServerBench bench(wide_segment(8, kLargeRows));
  GrpcClient client = bench.client();
  const auto streams = call_and_read_nothing(bench, client, 8);
  bench.until([&] { return bench.memory_bytes() > 0; });
  bench.server.leave();
  client.deaf = false;
  for (const std::int32_t stream : streams) CHECK_EQ(client.answer(stream).status(), 0);
  bench.until([&] { return client.step(), client.closed(); });
  bench.expect_idle();
}

TEST(a_server_ends_with_calls_in_flight) {
  ServerBench bench;
  GrpcClient client = bench.client();
  bench.worker.hold();
  client.call(wide_request(1));
  client.send(client.begin(kStreamPath), framed(wide_request(20)));
  client.send(client.begin(), framed(wide_request(20)).substr(0, 50'000));
  bench.until([&] { return client.step(), bench.free() == 61; });
  bench.worker.release();
}

// ---- connections that break ------------------------------------------------------------------

namespace {

// All that a client sends for one call.
std::string recorded(std::string_view message) {
  int ends[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const grpc::Descriptor other(ends[1]);
  GrpcClient client{grpc::Descriptor(ends[0])};
  client.call(message);
  std::string bytes(1 << 20, '\0');
  bytes.resize(static_cast<std::size_t>(::recv(other.get(), bytes.data(), bytes.size(), 0)));
  return bytes;
}

}  // namespace

TEST(a_connection_lost_at_any_byte_leaves_nothing) {
  ServerBench bench;
  const std::string small = recorded(wide_request(1)), large = recorded(wide_request(12));
  const auto cut = [&](const std::string& bytes, std::size_t at) {
    const grpc::Descriptor socket = bench.connect();
    CHECK_EQ(::send(socket.get(), bytes.data(), at, MSG_NOSIGNAL), static_cast<ssize_t>(at));
  };
  for (std::size_t at = 0; at < 400; ++at) cut(small, at);
  for (std::size_t at = 400; at < large.size(); at += 509) cut(large, at);
  GrpcClient client = bench.client();
  CHECK_EQ(client.answer(client.call(wide_request(1))).status(), 0);
  bench.expect_idle();
}

namespace {

// As TLS before its client has said anything: nothing can be written until something was read.
class Mute : public grpc::Transport {
 public:
  Mute(grpc::Descriptor socket, std::atomic<int>& tried)
      : Transport(std::move(socket)), tried_(tried) {}
  grpc::Io write(std::span<const iovec>, std::size_t&) override {
    ++tried_;
    return grpc::Io::kAgain;
  }
  bool waits_to_read() const override { return true; }

 private:
  std::atomic<int>& tried_;
};

class Mutes : public grpc::Transports {
 public:
  explicit Mutes(std::atomic<int>& tried) : tried_(tried) {}
  std::unique_ptr<grpc::Transport> accept(grpc::Descriptor socket) override {
    return std::make_unique<Mute>(std::move(socket), tried_);
  }

 private:
  std::atomic<int>& tried_;
};

}  // namespace

TEST(who_cannot_be_written_to_before_he_speaks_is_not_tried_all_the_time) {
  std::atomic<int> tried = 0;
  ServerBench bench(wide_segment(8, 8), kLimits, std::make_unique<Mutes>(tried));
  const grpc::Descriptor silent = bench.connect();
  bench.until([&] { return tried > 0; });
  for (int turn = 0; turn < 100; ++turn) bench.calls();
  CHECK(tried <= 2);
}

TEST(what_is_no_http2_is_hung_up_on) {
  ServerBench bench;
  for (const std::string_view said :
       {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02", "PRI * HTTP/2.0"}) {
    const grpc::Descriptor socket = bench.connect();
    CHECK(::send(socket.get(), said.data(), said.size(), MSG_NOSIGNAL) > 0);
    ::shutdown(socket.get(), SHUT_WR);
    char room[256];
    ssize_t count = 0;
    while ((count = ::recv(socket.get(), room, sizeof room, 0)) > 0) continue;
    CHECK(count == 0 || errno == ECONNRESET);
  }
  bench.expect_idle();
}
