// A message comes out of the intake the same, however it was cut on its way and wherever it went.
#include <algorithm>
#include <random>

#include "check.hpp"
#include "frontend_bench.hpp"
#include "grpc/intake.hpp"
#include "grpc_client.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using grpc::Intake;
using grpc::kNoTicket;
using Event = Intake::Event;

// Three inputs, of which two have a size that is known before.
Signature three() {
  return {{tensor("a", DType::kFp32, {-1, 4096}), tensor("b", DType::kInt8, {-1, -1}),
           tensor("c", DType::kFp32, {-1, 4})},
          {},
          8,
          {}};
}

constexpr std::size_t kLargeBytes = 16384 * 2;  // of "a" with two rows: more goes into a slot

struct Message {
  const char* what;
  std::string bytes;
  bool slot;  // it is received there
};

Proto head() { return Proto().text(1, "echo").text(3, "an id of the client's, not short"); }
Proto described(bool with_b = true) {
  Proto out = head();
  out.message(5, input("a", "FP32", {2, 4096}));
  if (with_b) out.message(5, input("b", "INT8", {2, 3}));
  return out.message(5, input("c", "FP32", {2, 4}));
}
std::string pattern(std::size_t bytes, int seed) {
  std::string out(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(i * 31 + i / 251 + seed);
  return out;
}

// A length that takes more bytes than it needs.
std::string padded_length(std::size_t length) {
  std::string out;
  for (int i = 0; i < 4; ++i, length >>= 7) out += static_cast<char>(length | 0x80);
  return out + static_cast<char>(length);
}

std::vector<Message> messages() {
  const std::string a = pattern(kLargeBytes, 1), b = pattern(6, 2), c = pattern(32, 3);
  const auto raw = [&](Proto proto) { return proto.text(7, a).text(7, b).text(7, c); };
  return {
      {"empty", "", false},
      {"no request", "\xff\xff\xff", false},
      {"whole", raw(described()).str(), true},
      {"inputs in another order",
       head()
           .message(5, input("c", "FP32", {2, 4}))
           .message(5, input("a", "FP32", {2, 4096}))
           .message(5, input("b", "INT8", {2, 3}))
           .text(7, c)
           .text(7, a)
           .text(7, b)
           .str(),
       true},
      {"an empty tensor",
       head()
           .message(5, input("a", "FP32", {2, 4096}))
           .message(5, input("b", "INT8", {2, 0}))
           .message(5, input("c", "FP32", {2, 4}))
           .text(7, a)
           .text(7, "")
           .text(7, c)
           .str(),
       true},
      {"lengths of more bytes than they need",
       described()
           .tag(7, 2)
           .raw(padded_length(a.size()))
           .raw(a)
           .text(7, b)
           .tag(7, 2)
           .raw(padded_length(c.size()))
           .raw(c)
           .str(),
       true},
      {"a tag of more bytes than it needs",
       described()
           .raw("\xba\x80")
           .raw(std::string(1, '\0'))
           .raw(padded_length(a.size()))
           .raw(a)
           .text(7, b)
           .text(7, c)
           .str(),
       false},
      {"fields after the tensors", raw(described()).text(2, "1").str(), false},
      {"an unknown field between the tensors",
       described().text(7, a).text(99, "what").text(7, b).text(7, c).str(), false},
      {"the name after the tensors",
       raw(Proto().message(5, input("a", "FP32", {2, 4096}))).text(1, "echo").str(), false},
      {"a tensor too many", raw(described()).text(7, "more").str(), false},
      {"a tensor too few", described().text(7, a).text(7, b).str(), false},
      {"a tensor that is too short", described().text(7, a.substr(4)).text(7, b).text(7, c).str(),
       false},
      {"a last tensor that is too long", described().text(7, a).text(7, b).text(7, c + "x").str(),
       false},
      {"a last tensor that is cut off",
       raw(described()).str().substr(0, raw(described()).str().size() - 5), false},
      {"a length that does not end",
       described().text(7, a).tag(7, 2).raw(std::string(12, '\x80')).str(), false},
      {"typed contents",
       head()
           .message(5, input("a", "FP32", {2, 4096}).message(5, Proto().text(6, a)))
           .message(5, input("b", "INT8", {2, 1}).message(5, Proto().packed(2, {1, -1})))
           .message(5, input("c", "FP32", {2, 4}).message(5, Proto().text(6, c)))
           .str(),
       false},
      {"an input of another type",
       head().message(5, input("a", "BYTES", {2, 4096})).text(7, a).str(), false},
      {"an unknown function",
       Proto().text(1, "none").message(5, input("a", "FP32", {2, 4096})).text(7, a).str(), false},
      {"groups", raw(described()).tag(20, 3).tag(20, 4).str(), false},
  };
}

// What became of a message: queued with these tensors, or refused in these words.
struct Became {
  std::string text;
  std::vector<std::string> tensors;
  bool operator==(const Became&) const = default;
};

struct Bench : FrontendBench {
  Bench() : FrontendBench(three(), 0, make_segment(4, 16 * kPageBytes)) {}

  Became submitted(const Result<TicketId>& id) {
    if (!id.ok()) return {id.status().message, {}};
    Became out{std::string(ok(frontend.request_id(id.value()))), {}};
    for (std::size_t i = 0; i < three().inputs.size(); ++i)
      out.tensors.push_back(payload(id.value(), i));
    frontend.cancel(id.value());
    return out;
  }

  // Takes a part off the front: as much as belongs into the slot is received there, as a connection
  // does, if it is `direct`.
  Event take_some(wire::Bytes& rest) {
    const auto room = direct ? intake.room() : std::span<std::byte>();
    if (room.empty()) return intake.take(rest, &frontend, kNever);
    const std::size_t count = std::min(room.size(), rest.size());
    std::ranges::copy(rest.first(count), room.begin());
    rest = rest.subspan(count);
    wire::Bytes placed = room.first(count);
    const Event event = intake.take(placed, &frontend, kNever);
    CHECK(placed.empty());  // it is all of one message
    return event;
  }

  // Takes all chunks, as a service would, and says what became of the messages in them.
  std::vector<Became> take(std::span<const std::string> chunks) {
    std::vector<Became> out;
    for (const std::string& chunk : chunks) {
      const auto bytes = std::as_bytes(std::span(chunk));
      const std::vector<std::byte> exact(bytes.begin(), bytes.end());  // a byte past it is seen
      wire::Bytes rest(exact);
      while (!rest.empty()) {
        const Event event = take_some(rest);
        if (event == Event::kMore) continue;
        CHECK(event == Event::kMessage || event == Event::kReserved);
        in_slot = event == Event::kReserved;
        if (in_slot) {
          const TicketId ticket = intake.take_ticket();
          CHECK(frontend.commit(ticket, 0).ok());
          out.push_back(submitted(ticket));
        } else {
          out.push_back(submitted(frontend.submit(intake.message(), kNever)));
        }
        intake.forget();
      }
    }
    return out;
  }
  void expect_idle() {
    CHECK(!intake.within() && intake.ticket() == kNoTicket);
    CHECK(idle());
    CHECK_EQ(bounds.memory_bytes, 0u);
  }

  Intake::Bounds bounds{8 << 20, 1 << 20, 0};
  Intake intake{bounds};
  bool direct = false;
  bool in_slot = false;
};

std::vector<std::string> cut(const std::string& whole, std::vector<std::size_t> places) {
  std::ranges::sort(places);
  std::vector<std::string> out;
  std::size_t before = 0;
  for (const std::size_t at : places) {
    out.push_back(whole.substr(before, at - before));
    before = at;
  }
  out.push_back(whole.substr(before));
  return out;
}

// All places near both ends and the first tensor's, and some of those between.
std::vector<std::size_t> places(std::size_t bytes) {
  std::vector<std::size_t> out;
  for (std::size_t at = 0; at <= bytes; at += at < 200 || at + 200 > bytes ? 1 : 397)
    out.push_back(at);
  return out;
}

}  // namespace

TEST(a_message_is_the_same_wherever_it_is_cut) {
  Bench bench;
  const std::string next = framed(described(false).str());
  for (const Message& message : messages()) {
    const std::string whole = framed(message.bytes) + next;
    const auto expected = bench.take(std::span(&whole, 1));
    CHECK_EQ(expected.size(), 2u);
    CHECK(!bench.in_slot);
    for (const bool direct : {false, true}) {
      bench.direct = direct;
      for (const std::size_t at : places(whole.size()))
        if (bench.take(cut(whole, {at})) != expected)
          check::fail(__FILE__, __LINE__,
                      std::string(message.what) + " cut at " + std::to_string(at));
    }
    bench.expect_idle();
  }
}

TEST(a_message_is_the_same_byte_by_byte_and_in_any_pieces) {
  Bench bench;
  std::mt19937_64 random(20'240'229);
  for (const Message& message : messages()) {
    const std::string whole = framed(message.bytes);
    const auto expected = bench.take(std::span(&whole, 1));
    for (std::size_t step = 1; step < 20'000; step = step * 3 + 1) {
      std::vector<std::size_t> at;
      for (std::size_t place = step; place < whole.size(); place += step) at.push_back(place);
      CHECK(bench.take(cut(whole, at)) == expected);
    }
    for (int i = 0; i < 60; ++i) {
      std::vector<std::size_t> at(1 + random() % 6);
      for (std::size_t& place : at) place = random() % (whole.size() + 1);
      CHECK(bench.take(cut(whole, at)) == expected);
    }
    bench.expect_idle();
  }
}

TEST(large_tensors_go_straight_into_their_slot) {
  Bench bench;
  for (const Message& message : messages()) {
    const std::string whole = framed(message.bytes);
    bench.take(cut(whole, {whole.size() / 2}));
    if (bench.in_slot != message.slot) check::fail(__FILE__, __LINE__, message.what);
  }
}

TEST(a_message_that_is_given_up_at_any_place_leaves_nothing) {
  Bench bench;
  for (const Message& message : messages()) {
    const std::string whole = framed(message.bytes);
    for (std::size_t at = 0; at < whole.size(); at += at < 200 ? 1 : 4001) {
      const std::string part = whole.substr(0, at);
      CHECK(bench.take(std::span(&part, 1)).empty());
      if (bench.intake.ticket() != kNoTicket) bench.frontend.cancel(bench.intake.take_ticket());
      bench.intake.forget();
      bench.expect_idle();
    }
  }
}

TEST(no_memory_is_told_and_leaves_nothing) {
  Bench bench;
  bench.bounds.memory_max_bytes = 20'000;
  for (const Message& message : messages()) {
    const std::string whole = framed(message.bytes);
    if (message.slot || message.bytes.size() < 30'000) continue;
    Event event = Event::kMore;
    for (const std::string& chunk : cut(whole, {whole.size() / 3, whole.size() / 2})) {
      wire::Bytes rest = std::as_bytes(std::span(chunk));
      if (event == Event::kMore) event = bench.intake.take(rest, &bench.frontend, kNever);
    }
    if (event != Event::kNoMemory) check::fail(__FILE__, __LINE__, message.what);
    CHECK_EQ(bench.intake.ticket(), kNoTicket);
    bench.intake.forget();
    bench.expect_idle();
  }
}

TEST(sizes_of_messages_have_a_bound) {
  Bench bench;
  const std::string prefix = std::string("\x00\x00\x80\x00\x01", 5);
  wire::Bytes rest = std::as_bytes(std::span(prefix));
  CHECK(bench.intake.take(rest, &bench.frontend, kNever) == Event::kTooLarge);
  CHECK_EQ(bench.intake.message_bytes(), (8u << 20) + 1);
  bench.intake.forget();
  bench.expect_idle();
}
