// Fuzz of the transport: a connection is sent what may be HTTP/2 frames with what may be requests
// in them, in pieces, while a worker answers. It may refuse and hang up as it wants, but when the
// connection has gone, no call, slot or byte of memory may be left. Under libFuzzer (GSLICE_FUZZER)
// as long as it is asked to; otherwise a bounded run, the same each time for the same seed.
//
//   fuzz_grpc [iterations [seed]]
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "grpc_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;

void require(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "fuzz_grpc: broken: %s\n", what);
  std::abort();
}

std::uint64_t answered = 0;  // requests

constexpr grpc::Service::Limits kSmall{
    .message_max_bytes = 1 << 20, .memory_max_bytes = 300'000, .lent_ns = 0};

// What the desk in Python would do, by the bytes that came: so the same each time.
void answer_notes(ConnectionBench& bench) {
  static const std::string request = wide_request(2);
  for (const grpc::Note& note : bench.service.desk().take()) {
    const std::size_t choice = note.bytes.size() + note.text.size();
    switch (note.kind) {
      case grpc::Note::Kind::kUnknown:
      case grpc::Note::Kind::kCompressed:
        if (choice % 4 == 0) break;  // later, which is never
        if (choice % 4 == 1 &&
            bench.service.admit(note.call, note.number, std::as_bytes(std::span(request))).ok())
          break;
        bench.service.refuse(note.call, note.number, {Code::kNotFound, "none", 5});
        break;
      case grpc::Note::Kind::kMessage:
        bench.service.send(note.call, note.bytes);
        break;
      case grpc::Note::Kind::kHalfClosed:
        bench.service.finish(note.call, Status::Ok());
        break;
      default:
        break;
    }
  }
}

void run(std::string_view said) {
  static ConnectionBench bench(wide_segment(4, 32), kSmall);
  const grpc::Descriptor client = bench.connect();
  std::array<char, 64 << 10> room;  // NOLINT: written by recv
  bool open = bench.turn();
  while (open && !said.empty()) {
    // The first byte of a piece says how long it is, and what happens after it.
    const auto control = static_cast<unsigned char>(said.front());
    const std::size_t bytes = std::min<std::size_t>(said.size(), 1u << (control % 16));
    const ssize_t sent = ::send(client.get(), said.data(), bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) break;
    said.remove_prefix(sent < 0 ? 0 : static_cast<std::size_t>(sent));
    open = bench.turn();
    answer_notes(bench);
    if ((control & 16) != 0) answered += bench.serve();
    while ((control & 32) != 0 && ::recv(client.get(), room.data(), room.size(), 0) > 0) continue;
  }
  for (int i = 0; open && i < 3; ++i) {
    answered += bench.serve();
    open = bench.turn();
    answer_notes(bench);
  }
  bench.connection.reset();
  bench.service.desk().take();
  while (bench.serve() > 0) continue;  // what was claimed cannot be taken back
  bench.service.take_done();
  require(bench.service.calls() == 0, "no call is left");
  require(bench.service.memory_bytes() == 0, "no memory is taken");
  require(bench.service.frontend().in_flight() == 0, "no request is in flight");
  require(free_slots(*bench.segment) == bench.segment->slot_count(), "all slots are free");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  run({reinterpret_cast<const char*>(data), size});
  return 0;
}

#ifndef GSLICE_FUZZER
namespace {

class Author {
 public:
  explicit Author(std::uint64_t seed) : random_(seed) {}

  // A preface, then calls whose frames are mixed and, mostly, a few of them spoilt.
  std::string connection() {
    std::string out = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings());
    std::uint32_t next = 1;
    std::vector<std::uint32_t> open;
    for (std::size_t i = 2 + below(30); i > 0; --i) {
      if (open.empty() || below(3) == 0) {
        const bool ends = below(20) == 0;
        out += headers(next, ends);
        if (!ends) open.push_back(next);
        next += 2;
      } else if (below(3) != 0) {
        const std::size_t which = below(open.size());
        const bool ends = below(3) == 0;
        out += data(open[which], ends);
        if (ends && below(50) != 0) open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
      } else {
        out += other(below(20) == 0 ? static_cast<std::uint32_t>(below(next + 4))
                                    : open[below(open.size())]);
      }
    }
    for (std::size_t count = below(2) * below(3); count > 0; --count) spoil(out);
    return out;
  }

 private:
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  static std::string big_endian(std::uint32_t value, int bytes) {
    std::string out;
    while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
    return out;
  }
  static std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                           const std::string& payload) {
    return big_endian(static_cast<std::uint32_t>(payload.size()), 3) + static_cast<char>(type) +
           static_cast<char>(flags) + big_endian(stream, 4) + payload;
  }
  std::string settings() {
    constexpr std::array<std::uint32_t, 6> kWindows{0, 1, 100, 5000, 65'535, 1 << 30};
    std::string out = big_endian(4, 2) + big_endian(kWindows[below(kWindows.size())], 4);
    if (below(20) == 0)
      out += big_endian(static_cast<std::uint32_t>(below(8)), 2) +
             big_endian(static_cast<std::uint32_t>(random_()), 4);
    return out;
  }

  // Literal fields, never indexed: a server that loses one of them does not lose the others.
  static void field(std::string& block, std::string_view name, std::string_view value) {
    for (const std::string_view text : {name, value}) {
      if (text == name) block += '\0';
      block += static_cast<char>(text.size());
      block += text;
    }
  }
  std::string headers(std::uint32_t stream, bool ends) {
    constexpr std::array<std::string_view, 8> kTimeouts{"1n",        "1u", "1m", "1S",
                                                        "99999999H", "",   "x",  "-1S"};
    std::string block;
    field(block, ":method", "POST");
    field(block, ":scheme", "http");
    field(block, ":authority", "test");
    field(block, ":path",
          below(3) == 0   ? kInferPath
          : below(4) != 0 ? kStreamPath
                          : "/any.Other/Method");
    if (below(30) != 0)
      field(block, "content-type", below(30) == 0 ? "text/html" : "application/grpc");
    if (below(4) == 0) field(block, "grpc-timeout", kTimeouts[below(kTimeouts.size())]);
    if (below(8) == 0) field(block, "grpc-encoding", "gzip");
    if (below(100) == 0) field(block, "content-length", "100");
    return frame(1, static_cast<std::uint8_t>(4 | (ends ? 1 : 0)), stream, block);
  }
  std::string message() {
    switch (below(12)) {
      case 0:
        return Proto().text(1, "cold").str();
      case 1:
        return std::string(below(100), '\xff');
      case 2:
        return wide_request(33);  // too large for a slot
      case 3:
        return wide_request(20) + Proto().text(2, "1").str();  // not to be received in its slot
      case 4:
        return wide_request(20).substr(0, 50'000 + below(30'000));
      default:
        return wide_request(static_cast<std::int64_t>(1 + below(below(4) == 0 ? 30 : 3)), 'x',
                            below(2) == 0 ? "id" : "");
    }
  }
  // One message or more of a stream, in one frame or more, whole or not.
  std::string data(std::uint32_t stream, bool ends) {
    std::string bytes;
    for (std::size_t count = 1 + (below(4) == 0 ? below(20) : 0); count > 0; --count)
      bytes += framed(message(), below(12) == 0);
    if (below(4) == 0) bytes.resize(below(bytes.size()));
    if (bytes.empty()) return frame(0, ends ? 1 : 0, stream, "");
    std::string out;
    while (!bytes.empty()) {
      const std::size_t most = below(4) == 0 ? 1 + below(64) : 16'000;
      const std::string part = bytes.substr(0, most);
      bytes.erase(0, part.size());
      const bool padded = below(16) == 0;
      out += frame(0, static_cast<std::uint8_t>((ends && bytes.empty() ? 1 : 0) | (padded ? 8 : 0)),
                   stream, padded ? '\3' + part + std::string(3, '\0') : part);
      if (below(200) == 0) out += other(stream);
    }
    return out;
  }
  std::string other(std::uint32_t stream) {
    switch (below(below(6) == 0 ? 9 : 5)) {  // the last ones may end the connection
      case 0:
        return frame(3, 0, stream, big_endian(8, 4));  // RST_STREAM
      case 1:
        return frame(6, 0, 0, "12345678");  // PING
      case 2:
        return frame(2, 0, stream, std::string(5, '\0'));  // PRIORITY
      case 3:
        return frame(4, 0, 0, settings());
      case 4: {
        const auto more = static_cast<std::uint32_t>(1 + below(100'000));
        return frame(8, 0, below(2) == 0 ? 0 : stream, big_endian(more, 4));  // WINDOW_UPDATE
      }
      case 5:
        return frame(4, 1, 0, "");  // SETTINGS, acknowledged
      case 6:
        return frame(7, 0, 0, big_endian(0, 4) + big_endian(0, 4));  // GOAWAY
      case 7: {
        std::string trailers;
        field(trailers, "grpc-timeout", "1n");
        return frame(1, 5, stream, trailers);
      }
      default:
        return frame(static_cast<std::uint8_t>(below(12)), static_cast<std::uint8_t>(random_()),
                     stream, std::string(below(40), static_cast<char>(random_())));
    }
  }
  void spoil(std::string& out) {
    constexpr std::size_t kPrefaceBytes = 24;
    const std::size_t at =
        kPrefaceBytes +
        below(std::min<std::size_t>(out.size() - kPrefaceBytes, below(2) == 0 ? 400 : out.size()));
    switch (below(4)) {
      case 0:
        out[at] = static_cast<char>(out[at] ^ (1 << below(8)));
        break;
      case 1:
        out.insert(at, 1 + below(9), static_cast<char>(random_()));
        break;
      case 2:
        out.erase(at, 1 + below(20));
        break;
      default:
        out.resize(at);
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t iterations = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20'240'229;
  std::printf("fuzz_grpc: %llu connections, seed %llu\n",
              static_cast<unsigned long long>(iterations), static_cast<unsigned long long>(seed));
  Author author(seed);
  for (std::uint64_t i = 0; i < iterations; ++i) run(author.connection());
  std::printf("fuzz_grpc: %llu requests were answered\n",
              static_cast<unsigned long long>(answered));
  require(answered >= iterations, "most connections make sense");
  return 0;
}
#endif
