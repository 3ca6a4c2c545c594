// What is read by a `Scatter` comes out as it came, and lies where it belongs if it was foreseen.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "check.hpp"
#include "grpc/scatter.hpp"

namespace {

using gslice::grpc::Frames;
using gslice::grpc::Scatter;

std::string frame_header(std::size_t length, int type = 0, int flags = 0, int stream = 1) {
  std::string out;
  for (const int shift : {16, 8, 0}) out += static_cast<char>(length >> shift);
  out += static_cast<char>(type);
  out += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) out += static_cast<char>(stream >> shift);
  return out;
}

std::string filled(std::mt19937& random, std::size_t bytes) {
  std::string out(bytes, '\0');
  for (char& each : out) each = static_cast<char>(random());
  return out;
}

// As readv does. How many there were.
std::size_t read(const Scatter& scatter, std::string_view source) {
  std::size_t done = 0;
  for (const iovec& piece : scatter.pieces()) {
    const std::size_t count = std::min(piece.iov_len, source.size() - done);
    std::memcpy(piece.iov_base, source.data() + done, count);
    done += count;
  }
  return done;
}

// All that was handled.
std::string taken(const Scatter& scatter, std::size_t bytes) {
  std::string out;
  CHECK(scatter.take(bytes, [&](std::span<const std::byte> part) {
    CHECK(!part.empty());
    out.append(reinterpret_cast<const char*>(part.data()), part.size());
    return true;
  }));
  return out;
}

}  // namespace

TEST(foreseen_frames_lie_where_they_belong) {
  std::mt19937 random(1);
  const std::string payload = filled(random, 100 + 5 * 300 + 70);
  std::string source = payload.substr(0, 100);
  for (std::size_t at = 100; at < payload.size(); at += 300) {
    const std::string part = payload.substr(at, 300);
    source += frame_header(part.size()) + part;
  }
  source += frame_header(0, 0, 1);
  for (std::size_t cut = 1; cut <= source.size(); ++cut) {
    std::vector<std::byte> room(payload.size()), scratch(50);
    Scatter scatter(room, {1, 300, 100, true}, scratch);
    const std::size_t bytes = read(scatter, std::string_view(source).substr(0, cut));
    CHECK_EQ(bytes, cut);
    CHECK(taken(scatter, bytes) == source.substr(0, cut));
    if (cut == source.size()) CHECK(std::memcmp(room.data(), payload.data(), payload.size()) == 0);
  }
}

TEST(frames_are_foreseen_only_if_there_were_others_like_them) {
  std::vector<std::byte> room(1000), scratch(50);
  CHECK_EQ(Scatter(room, {1, 300, 100, false}, scratch).pieces().size(), 2u);
  CHECK_EQ(Scatter(room, {1, 300, 0, true}, scratch).pieces().size(), 1u);
  CHECK_EQ(Scatter({}, {1, 300, 100, true}, scratch).pieces().size(), 1u);
  CHECK_EQ(Scatter(std::span(room).first(90), {1, 300, 100, true}, scratch).pieces().size(), 2u);
  CHECK_EQ(Scatter(room, {1, 300, 100, true}, scratch).pieces().size(), 8u);
}

TEST(whatever_comes_comes_out_in_order) {
  std::mt19937 random(2);
  const auto below = [&](std::size_t bound) { return random() % bound; };
  for (int trial = 0; trial < 6'000; ++trial) {
    const std::size_t frame_bytes = 1 + below(40), left_bytes = 1 + below(frame_bytes);
    std::string source = filled(random, left_bytes);
    for (int i = 0; i < 40; ++i) {
      std::size_t length = frame_bytes;
      int type = 0, flags = 0, stream = 1;
      switch (below(12)) {
        case 0:
          length = below(80);
          break;
        case 1:
          type = static_cast<int>(below(10));
          break;
        case 2:
          flags = static_cast<int>(below(16));
          break;
        case 3:
          stream = static_cast<int>(below(5));
          break;
        default:
          break;
      }
      source += frame_header(length, type, flags, stream) + filled(random, length);
    }
    std::vector<std::byte> room(below(600)), scratch(1 + below(60));
    Scatter scatter(room, {1, frame_bytes, left_bytes, true}, scratch);
    const std::size_t bytes = read(scatter, source.substr(0, 1 + below(source.size())));
    CHECK(bytes <= scatter.room_bytes());
    CHECK(taken(scatter, bytes) == source.substr(0, bytes));
  }
}

TEST(nothing_is_handled_after_what_was_unsound) {
  std::vector<std::byte> room(1000), scratch(50);
  Scatter scatter(room, {1, 300, 100, true}, scratch);
  const std::string source = std::string(100, 'a') + frame_header(300) + std::string(300, 'b');
  const std::size_t bytes = read(scatter, source);
  int handled = 0;
  CHECK(!scatter.take(bytes, [&](std::span<const std::byte>) { return ++handled < 2; }));
  CHECK_EQ(handled, 2);
}
