// Typed contents (InferTensorContents) to a tensor's row-major bytes. The request's parse has
// proven their form; what is left is whether they fit the tensor.
#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.hpp"
#include "base/status.hpp"
#include "wire/request.hpp"

namespace gslice::wire {

struct ContentsSize {
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;  // as a raw tensor; BYTES elements with their 4-byte lengths
};

// How large the tensor is. kInvalidArgument: FP16 and BF16, which must be raw; elements in a field
// that is not the data type's; an 8- or 16-bit value out of range. The message names the input.
Result<ContentsSize> check_contents(const Request& request, const InputView& input, DType dtype);

// Writes what `check_contents` has passed; `out` has exactly its `bytes`.
void write_contents(const Request& request, const InputView& input, DType dtype,
                    std::span<std::byte> out);

// Calls visit(value) for each element of a field in wire order. `Value` is std::uint64_t for
// varints, float or double for fixed ones, Bytes for bytes_contents.
template <typename Value, typename Visit>
void for_each_element(const Request& request, const InputView& input, ContentsField field,
                      Visit&& visit);

namespace detail {

template <typename Value>
bool read_element(Reader& reader, Value& value) {
  if constexpr (std::is_same_v<Value, std::uint64_t>)
    return reader.varint(value);
  else if constexpr (std::is_same_v<Value, Bytes>)
    return reader.bytes(value);
  else
    return reader.fixed(value);
}

template <typename Value>
inline constexpr WireType kWireType = std::is_same_v<Value, std::uint64_t> ? WireType::kVarint
                                      : std::is_same_v<Value, float>       ? WireType::kFixed32
                                      : std::is_same_v<Value, double>      ? WireType::kFixed64
                                                                           : WireType::kLength;

}  // namespace detail

template <typename Value, typename Visit>
void for_each_element(const Request& request, const InputView& input, ContentsField field,
                      Visit&& visit) {
  Value value{};
  for (const Bytes chunk : request.chunks_of(input)) {
    Reader reader(chunk);
    std::uint32_t number = 0;
    WireType type{};
    while (!reader.at_end() && reader.tag(number, type)) {
      Bytes run;
      if (number != static_cast<std::uint32_t>(field)) {
        if (!reader.skip(type)) return;
      } else if (type == detail::kWireType<Value>) {
        if (!detail::read_element(reader, value)) return;
        visit(value);
      } else if (type == WireType::kLength) {
        if (!reader.bytes(run)) return;
        for (Reader packed(run); !packed.at_end() && detail::read_element(packed, value);)
          visit(value);
      } else if (!reader.skip(type)) {
        return;
      }
    }
  }
}

}  // namespace gslice::wire
