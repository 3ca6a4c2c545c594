#include "wire/text.hpp"

#include <cstring>

namespace gslice::wire {
namespace {

constexpr std::size_t kQuotedMax = 64;

std::uint8_t byte_at(std::string_view text, std::size_t i) {
  return static_cast<std::uint8_t>(text[i]);
}

// Length of the well-formed UTF-8 sequence at `i`; 0: there is none (overlong forms, surrogates
// and values past U+10FFFF are not well-formed).
std::size_t sequence_bytes(std::string_view text, std::size_t i) {
  const std::uint8_t first = byte_at(text, i);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - i < length) return 0;
  for (std::size_t k = 1; k < length; ++k)
    if ((byte_at(text, i + k) & 0xc0) != 0x80) return 0;
  const std::uint8_t second = byte_at(text, i + 1);
  const bool bad = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
                   (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
  return bad ? 0 : length;
}

void append_escaped(std::string& out, std::uint8_t byte) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out += "\\x";
  out += kHex[byte >> 4];
  out += kHex[byte & 15];
}

}  // namespace

bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (text.size() - i >= 8) {  // names are nearly always ASCII
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
    i += 8;
  }
  while (i < text.size()) {
    const std::size_t length = sequence_bytes(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  std::size_t i = 0;
  for (std::size_t characters = 0; i < text.size() && characters < kQuotedMax; ++characters) {
    const std::size_t length = sequence_bytes(text, i);
    const std::uint8_t first = byte_at(text, i);
    if (length == 0 || first < 0x20 || first == 0x7f || first == '"' || first == '\\') {
      append_escaped(out, first);
      i += 1;
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  out += i < text.size() ? "...\"" : "\"";
  return out;
}

}  // namespace gslice::wire
