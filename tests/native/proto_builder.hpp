// Writes protobuf's wire format by hand, so that tests can say exactly which bytes come, also
// ones that no protobuf library would write.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "wire/reader.hpp"

namespace gslice::test {

class Proto {
 public:
  Proto& varint(std::uint32_t field, std::uint64_t value) {
    tag(field, 0);
    append_varint(value);
    return *this;
  }
  Proto& fixed32(std::uint32_t field, float value) {
    tag(field, 5);
    return raw(std::string_view(reinterpret_cast<const char*>(&value), sizeof(value)));
  }
  Proto& fixed64(std::uint32_t field, double value) {
    tag(field, 1);
    return raw(std::string_view(reinterpret_cast<const char*>(&value), sizeof(value)));
  }
  Proto& text(std::uint32_t field, std::string_view value) {
    tag(field, 2);
    append_varint(value.size());
    return raw(value);
  }
  Proto& message(std::uint32_t field, const Proto& value) { return text(field, value.bytes_); }
  Proto& packed(std::uint32_t field, std::initializer_list<std::int64_t> values) {
    Proto run;
    for (const std::int64_t value : values) run.append_varint(static_cast<std::uint64_t>(value));
    return message(field, run);
  }
  Proto& tag(std::uint32_t field, std::uint32_t wire_type) {
    append_varint(std::uint64_t{field} << 3 | wire_type);
    return *this;
  }
  Proto& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }

  std::string str() const { return bytes_; }
  wire::Bytes bytes() const { return std::as_bytes(std::span(bytes_)); }

 private:
  void append_varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

// ParametersEntry{key, InferParameter{...}}
inline Proto parameter(std::string_view key, const Proto& value) {
  return Proto().text(1, key).message(2, value);
}

// ModelInferRequest.InferInputTensor without contents
inline Proto input(std::string_view name, std::string_view datatype,
                   std::initializer_list<std::int64_t> shape) {
  Proto out;
  out.text(1, name).text(2, datatype);
  return shape.size() == 0 ? out : out.packed(3, shape);
}

// The raw bytes of BYTES elements
inline std::string elements(std::initializer_list<std::string_view> values) {
  std::string out;
  for (const std::string_view value : values) {
    const auto length = static_cast<std::uint32_t>(value.size());
    out.append(reinterpret_cast<const char*>(&length), 4);
    out += value;
  }
  return out;
}

template <typename T>
std::string raw_of(std::initializer_list<T> values) {
  std::string out(values.size() * sizeof(T), '\0');
  if (values.size() != 0) std::memcpy(out.data(), std::data(values), out.size());
  return out;
}

inline std::string_view view_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace gslice::test
