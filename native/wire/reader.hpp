// Reads protobuf's wire format in place. Every read is bounds-checked and says false at the first
// byte that is wrong; nothing is copied. Groups are refused, so nothing ever nests by input alone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace gslice::wire {

static_assert(std::endian::native == std::endian::little, "tensors and fixed fields are raw bytes");

using Bytes = std::span<const std::byte>;

enum class WireType : std::uint8_t {
  kVarint = 0,
  kFixed64 = 1,
  kLength = 2,
  kStartGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5,
};

inline constexpr std::size_t kMaxVarintBytes = 10;

class Reader {
 public:
  explicit Reader(Bytes bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  bool at_end() const { return at_ == end_; }
  const std::byte* position() const { return at_; }
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

  bool varint(std::uint64_t& value) {
    if (at_ != end_ && std::to_integer<std::uint8_t>(*at_) < 0x80) {
      value = std::to_integer<std::uint64_t>(*at_++);
      return true;
    }
    return long_varint(value);
  }

  // A field number and a wire type; false for number 0 and wire types that do not exist.
  bool tag(std::uint32_t& field, WireType& type) {
    const std::byte* start = at_;
    std::uint64_t value = 0;
    if (!varint(value) || at_ - start > 5 || value > 0xffffffffu) return false;
    field = static_cast<std::uint32_t>(value >> 3);
    type = static_cast<WireType>(value & 7);
    return field != 0 && (value & 7) <= 5;
  }

  template <typename T>
  bool fixed(T& value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(&value, at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }

  bool bytes(Bytes& value) {
    std::uint64_t length = 0;
    if (!varint(length) || length > left()) return false;
    value = {at_, static_cast<std::size_t>(length)};
    at_ += length;
    return true;
  }

  bool advance(std::size_t count) {
    if (left() < count) return false;
    at_ += count;
    return true;
  }

  // Passes over an unknown field's value.
  bool skip(WireType type) {
    std::uint64_t ignored = 0;
    Bytes ignored_bytes;
    switch (type) {
      case WireType::kVarint:
        return varint(ignored);
      case WireType::kFixed64:
        return advance(8);
      case WireType::kLength:
        return bytes(ignored_bytes);
      case WireType::kFixed32:
        return advance(4);
      case WireType::kStartGroup:
      case WireType::kEndGroup:
        break;
    }
    return false;
  }

 private:
  bool long_varint(std::uint64_t& value) {
    std::uint64_t result = 0;
    for (std::size_t i = 0; i < kMaxVarintBytes; ++i) {
      if (at_ == end_) return false;
      const auto byte = std::to_integer<std::uint64_t>(*at_++);
      result |= (byte & 0x7f) << (7 * i);
      if (byte < 0x80) {
        value = result;
        return true;
      }
    }
    return false;
  }

  const std::byte* at_;
  const std::byte* end_;
};

inline std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace gslice::wire
