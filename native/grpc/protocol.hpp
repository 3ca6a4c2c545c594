// gRPC over HTTP/2: what its headers and prefixes say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gslice::grpc {

inline constexpr std::size_t kPrefixBytes = 5;  // of a message: compressed or not, and its length

// The value of `grpc-timeout`, such as "100m". Nothing if it is none.
std::optional<std::int64_t> timeout_ns(std::string_view text);

// A status text as `grpc-message` has it: percent-encoded, and cut where a header would be too
// long.
std::string percent_encoded(std::string_view text);

}  // namespace gslice::grpc
