#include "grpc/protocol.hpp"

#include <algorithm>
#include <charconv>

#include "base/clock.hpp"

namespace gslice::grpc {
namespace {

constexpr std::size_t kDigitsMax = 8;
constexpr std::size_t kTextMax = 2000;  // clients bound headers to 8 KiB

std::int64_t unit_ns(char unit) {
  switch (unit) {
    case 'H':
      return 3'600'000'000'000;
    case 'M':
      return 60'000'000'000;
    case 'S':
      return 1'000'000'000;
    case 'm':
      return 1'000'000;
    case 'u':
      return 1'000;
    case 'n':
      return 1;
    default:
      return 0;
  }
}

}  // namespace

std::optional<std::int64_t> timeout_ns(std::string_view text) {
  if (text.size() < 2 || text.size() > kDigitsMax + 1) return std::nullopt;
  std::int64_t amount = 0;
  const char* end = text.data() + text.size() - 1;
  const auto [stopped, error] = std::from_chars(text.data(), end, amount);
  const std::int64_t unit = unit_ns(text.back());
  if (error != std::errc{} || stopped != end || amount < 0 || unit == 0) return std::nullopt;
  std::int64_t ns = 0;
  return __builtin_mul_overflow(amount, unit, &ns) ? kNever : ns;
}

std::string percent_encoded(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : text.substr(0, kTextMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '%') {
      out += c;
    } else {
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

}  // namespace gslice::grpc
