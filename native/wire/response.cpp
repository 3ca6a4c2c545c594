#include "wire/response.hpp"

#include <bit>
#include <cstring>
#include <limits>

namespace gslice::wire {
namespace {

using namespace std::string_view_literals;

// parameters {"triton_final_response": {bool_param: true}}, a map entry: always the same bytes.
constexpr std::string_view kFinalResponse = "\x0a\x15triton_final_response\x12\x02\x08\x01"sv;

constexpr std::uint8_t length_tag(std::uint8_t field) {
  return static_cast<std::uint8_t>(field << 3 | static_cast<std::uint8_t>(WireType::kLength));
}

std::size_t varint_bytes(std::uint64_t value) {
  return (static_cast<std::size_t>(std::bit_width(value | 1)) + 6) / 7;
}
std::size_t field_bytes(std::size_t length) { return 1 + varint_bytes(length) + length; }
std::size_t text_bytes(std::string_view text) {
  return text.empty() ? 0 : field_bytes(text.size());
}

std::size_t shape_bytes(std::span<const std::int64_t> dims) {
  std::size_t bytes = 0;
  for (const std::int64_t dim : dims) bytes += varint_bytes(static_cast<std::uint64_t>(dim));
  return bytes;
}

// An entry of `parameters`, {key: {int64_param: value}} or {key: {string_param: value}}: the bytes
// of the value's message, and of the entry.
std::size_t number_bytes(std::uint64_t value) { return 1 + varint_bytes(value); }
std::size_t entry_bytes(std::string_view key, std::size_t value_bytes) {
  return field_bytes(key.size()) + field_bytes(value_bytes);
}

constexpr std::string_view kRegion = "shared_memory_region"sv;
constexpr std::string_view kByteSize = "shared_memory_byte_size"sv;
constexpr std::string_view kOffset = "shared_memory_offset"sv;

std::size_t place_bytes(const PlaceView& place) {
  if (place.region.empty()) return 0;
  return field_bytes(entry_bytes(kRegion, field_bytes(place.region.size()))) +
         field_bytes(entry_bytes(kByteSize, number_bytes(place.bytes))) +
         field_bytes(entry_bytes(kOffset, number_bytes(place.offset_bytes)));
}

std::size_t output_bytes(const OutputView& output) {
  return text_bytes(output.name) + text_bytes(output.datatype) +
         (output.dims.empty() ? 0 : field_bytes(shape_bytes(output.dims))) +
         place_bytes(output.place);
}

std::size_t message_bytes(const ResponseView& response) {
  std::size_t bytes = text_bytes(response.model_name) + text_bytes(response.model_version) +
                      text_bytes(response.id);
  if (response.stream) bytes += field_bytes(kFinalResponse.size());
  for (const OutputView& output : response.outputs)
    bytes += field_bytes(output_bytes(output)) + field_bytes(output.data.size());
  return bytes;
}

class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}

  std::byte* at() const { return at_; }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) *at_++ = static_cast<std::byte>(value | 0x80);
    *at_++ = static_cast<std::byte>(value);
  }
  void header(std::uint8_t field, std::size_t length) {
    *at_++ = static_cast<std::byte>(length_tag(field));
    varint(length);
  }
  void append(Bytes value) {
    if (!value.empty()) std::memcpy(at_, value.data(), value.size());
    at_ += value.size();
  }
  void bytes(std::uint8_t field, Bytes value) {
    header(field, value.size());
    append(value);
  }
  void text(std::uint8_t field, std::string_view value) {
    if (!value.empty()) bytes(field, std::as_bytes(std::span(value)));
  }
  void number(std::uint8_t field, std::uint64_t value) {
    *at_++ = static_cast<std::byte>(field << 3 | static_cast<std::uint8_t>(WireType::kVarint));
    varint(value);
  }
  // The beginning of an entry of `parameters`: its value's message of so many bytes comes next.
  void entry(std::string_view key, std::size_t value_bytes) {
    header(4, entry_bytes(key, value_bytes));
    text(1, key);
    header(2, value_bytes);
  }

 private:
  std::byte* at_;
};

void write_place(const PlaceView& place, Writer& writer) {
  if (place.region.empty()) return;
  writer.entry(kRegion, field_bytes(place.region.size()));
  writer.text(3, place.region);
  writer.entry(kByteSize, number_bytes(place.bytes));
  writer.number(2, place.bytes);
  writer.entry(kOffset, number_bytes(place.offset_bytes));
  writer.number(2, place.offset_bytes);
}

void write_output(const OutputView& output, Writer& writer) {
  writer.header(5, output_bytes(output));
  writer.text(1, output.name);
  writer.text(2, output.datatype);
  if (!output.dims.empty()) {
    writer.header(3, shape_bytes(output.dims));
    for (const std::int64_t dim : output.dims) writer.varint(static_cast<std::uint64_t>(dim));
  }
  write_place(output.place, writer);
}

}  // namespace

std::optional<std::size_t> response_bytes(const ResponseView& response) {
  const std::size_t inner = message_bytes(response);
  const std::size_t bytes = response.stream ? field_bytes(inner) : inner;
  if (bytes > std::size_t{std::numeric_limits<std::int32_t>::max()}) return std::nullopt;
  return bytes;
}

namespace {

// All that comes before the tensors.
void write_head(const ResponseView& response, Writer& writer) {
  if (response.stream) writer.header(2, message_bytes(response));
  writer.text(1, response.model_name);
  writer.text(2, response.model_version);
  writer.text(3, response.id);
  if (response.stream) writer.bytes(4, std::as_bytes(std::span(kFinalResponse)));
  for (const OutputView& output : response.outputs) write_output(output, writer);
}

}  // namespace

void write_response(const ResponseView& response, std::span<std::byte> out) {
  Writer writer(out.data());
  write_head(response, writer);
  for (const OutputView& output : response.outputs) writer.bytes(6, output.data);
}

void lend_response(const ResponseView& response, std::vector<std::byte>& text,
                   std::vector<Bytes>& pieces) {
  std::size_t bytes = response_bytes(response).value_or(0);
  for (const OutputView& output : response.outputs) bytes -= output.data.size();
  const std::size_t before = text.size();
  text.resize(before + bytes);
  Writer writer(text.data() + before);
  const std::byte* piece = text.data();
  write_head(response, writer);
  for (const OutputView& output : response.outputs) {
    writer.header(6, output.data.size());
    pieces.emplace_back(piece, writer.at());
    if (!output.data.empty()) pieces.push_back(output.data);
    piece = writer.at();
  }
  if (piece != writer.at() || response.outputs.empty()) pieces.emplace_back(piece, writer.at());
}

std::vector<std::byte> stream_error(std::string_view id, int code, std::string_view message) {
  constexpr std::string_view kCode = "\x0a\x0bgslice_code\x12\x02\x10"sv;  // then the code, a byte
  const std::size_t parameter = kCode.size() + 1;
  const std::size_t inner =
      text_bytes(id) + field_bytes(kFinalResponse.size()) + field_bytes(parameter);
  std::vector<std::byte> out(text_bytes(message) + field_bytes(inner));
  Writer writer(out.data());
  writer.text(1, message);
  writer.header(2, inner);
  writer.text(3, id);
  writer.bytes(4, std::as_bytes(std::span(kFinalResponse)));
  writer.header(4, parameter);
  writer.append(std::as_bytes(std::span(kCode)));
  writer.varint(static_cast<std::uint64_t>(code));
  return out;
}

}  // namespace gslice::wire
