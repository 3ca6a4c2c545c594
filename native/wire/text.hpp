// Text for messages: what a client sent is quoted so that it can neither flood nor forge a line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace gslice::wire {

bool is_utf8(std::string_view text);

// `text` in double quotes: control characters and invalid bytes escaped, cut after 64 characters.
std::string quoted(std::string_view text);

namespace detail {
inline void append(std::string& out, std::string_view piece) { out += piece; }
inline void append(std::string& out, const char* piece) { out += piece; }
template <typename Number>
  requires std::is_arithmetic_v<Number>
void append(std::string& out, Number piece) {
  out += std::to_string(piece);
}
}  // namespace detail

// One string of texts and numbers, in order.
template <typename... Pieces>
std::string concat(const Pieces&... pieces) {
  std::string out;
  (detail::append(out, pieces), ...);
  return out;
}

}  // namespace gslice::wire
