#include "frontend/journal.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

namespace gslice {
namespace {

constexpr std::size_t kRecords = 1024;  // taken about once a second

int hex_digit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;  // upper case is not allowed
  return -1;
}

// False: it is no hexadecimal number of that length.
bool read_hex(std::string_view text, std::span<std::uint8_t> out) {
  if (text.size() != 2 * out.size()) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return true;
}

bool is_zero(std::span<const std::uint8_t> bytes) {
  return std::ranges::all_of(bytes, [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace

// version "-" trace "-" parent "-" flags; of later versions more may follow.
std::optional<TraceParent> parse_traceparent(std::string_view text) {
  constexpr std::size_t kTrace = 3, kParent = 36, kFlags = 53, kEnd = 55;
  if (text.size() < kEnd || text[kTrace - 1] != '-' || text[kParent - 1] != '-' ||
      text[kFlags - 1] != '-')
    return std::nullopt;
  std::array<std::uint8_t, 1> version{}, flags{};
  TraceParent found;
  if (!read_hex(text.substr(0, 2), version) || version[0] == 0xff ||
      !read_hex(text.substr(kTrace, 32), found.context.trace) ||
      !read_hex(text.substr(kParent, 16), found.context.parent) ||
      !read_hex(text.substr(kFlags, 2), flags))
    return std::nullopt;
  if (text.size() > kEnd && (version[0] == 0 || text[kEnd] != '-')) return std::nullopt;
  if (is_zero(found.context.trace) || is_zero(found.context.parent)) return std::nullopt;
  found.sampled = (flags[0] & 1) != 0;
  return found;
}

Journal::Journal(double sample, bool failures)
    : below_(sample > 0 && sample < 1 ? static_cast<std::uint64_t>(std::ldexp(sample, 64)) : 0),
      always_(sample >= 1),
      failures_(failures),
      random_(std::random_device{}()) {}

std::optional<TraceContext> Journal::traced(std::string_view traceparent) {
  if (!traceparent.empty())
    if (const auto parent = parse_traceparent(traceparent))
      return parent->sampled ? std::optional(parent->context) : std::nullopt;
  return always_ || random_() < below_ ? std::optional<TraceContext>(std::in_place) : std::nullopt;
}

void Journal::add(RequestRecord record) {
  if (page_.records.size() >= kRecords) {
    ++page_.lost;
    return;
  }
  record.stamps = ordered(record.stamps);
  page_.records.push_back(std::move(record));
}

Journal::Page Journal::take() { return std::exchange(page_, {}); }

RequestStamps ordered(RequestStamps stamps) {
  std::int64_t before = stamps.received_ns;
  for (std::int64_t* each : {&stamps.queued_ns, &stamps.claimed_ns, &stamps.compute_ns,
                             &stamps.computed_ns, &stamps.done_ns}) {
    if (*each == 0) continue;
    *each = std::clamp(*each, before, std::max(before, stamps.answered_ns));
    before = *each;
  }
  stamps.answered_ns = std::max(stamps.answered_ns, before);
  return stamps;
}

}  // namespace gslice
