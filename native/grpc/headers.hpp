// What is sent in HEADERS frames: every answer's first, and its status.
#pragma once

#include <nghttp2/nghttp2.h>

#include <array>
#include <charconv>
#include <span>
#include <string>
#include <string_view>

#include "grpc/call.hpp"
#include "grpc/protocol.hpp"

namespace gslice::grpc {

inline nghttp2_nv field(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
  };
  return {bytes(name), bytes(value), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME};  // names are literals
}

struct Digits {
  explicit Digits(std::int64_t value)
      : end(std::to_chars(room.data(), room.data() + room.size(), value).ptr) {}
  std::string_view view() const { return {room.data(), end}; }
  std::array<char, 24> room{};
  const char* end;
};

inline const std::array<nghttp2_nv, 3> kHeaders{
    field(":status", "200"), field("content-type", "application/grpc"),
    field("grpc-accept-encoding", "identity, deflate, gzip")};

// The status, and what comes before it where there are no headers yet.
struct Trailers {
  explicit Trailers(const Call& call)
      : code(static_cast<int>(call.status.code)),
        retry(call.status.retry_after_ms),
        message(percent_encoded(call.status.message)) {}

  std::span<const nghttp2_nv> fields(bool with_headers) {
    if (with_headers)
      for (const nghttp2_nv& each : kHeaders) all[count++] = each;
    add("grpc-status", code.view());
    if (!message.empty()) add("grpc-message", message);
    if (retry.view().front() != '-') add("grpc-retry-pushback-ms", retry.view());
    return std::span(all).first(count);
  }

 private:
  void add(std::string_view name, std::string_view value) { all[count++] = field(name, value); }

  Digits code, retry;
  std::string message;
  std::array<nghttp2_nv, 6> all{};
  std::size_t count = 0;
};

}  // namespace gslice::grpc
