// A serialised inference.ModelInferRequest as views into its own bytes: no protobuf object, no
// copy, and no allocation once the vectors have grown. The views live as long as those bytes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/signature.hpp"
#include "base/status.hpp"
#include "wire/reader.hpp"

namespace gslice::wire {

// Far more than any client sends; they bound what a hostile message can make the vectors grow to.
inline constexpr std::size_t kMaxParameters = 256;
inline constexpr std::size_t kMaxContents = 256;

// inference.InferParameter, by the field of its oneof that is set.
struct Parameter {
  enum class Kind : std::uint8_t { kNone, kBool, kInt64, kString, kDouble, kUint64 };

  std::string_view key;
  Kind kind = Kind::kNone;
  std::uint64_t integer = 0;  // bool, int64 (two's complement) and uint64
  double real = 0;
  std::string_view text;
};

// Fields of inference.InferTensorContents by number.
enum class ContentsField : std::uint8_t {
  kBool = 1,
  kInt = 2,
  kInt64 = 3,
  kUint = 4,
  kUint64 = 5,
  kFp32 = 6,
  kFp64 = 7,
  kBytes = 8,
};
inline constexpr std::size_t kContentsFields = 8;

// A run of entries in one of the request's shared vectors.
struct Extent {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
};

// Typed contents: messages that protobuf would merge into one, and how many elements they hold.
struct ContentsView {
  Extent chunks;  // in Request::contents_chunks; count 0: the field is absent
  std::array<std::uint32_t, kContentsFields> elements{};  // by field number - 1
  std::uint64_t data_bytes = 0;                           // sum of the bytes_contents

  bool present() const { return chunks.count != 0; }
  std::uint32_t count(ContentsField field) const {
    return elements[static_cast<std::size_t>(field) - 1];
  }
};

struct InputView {
  std::string_view name;
  std::string_view datatype;
  std::array<std::int64_t, kMaxRank> dims{};  // the first kMaxRank of them
  std::uint32_t rank = 0;                     // may exceed kMaxRank
  Extent parameters;                          // in Request::tensor_parameters
  ContentsView contents;

  std::span<const std::int64_t> shape() const {
    return {dims.data(), rank < kMaxRank ? rank : kMaxRank};
  }
};

struct RequestedOutputView {
  std::string_view name;
  Extent parameters;  // in Request::tensor_parameters
};

class Request {
 public:
  // Replaces what was parsed before. On kInvalidArgument, the fields read so far stay readable.
  Status parse(Bytes message);

  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::vector<Parameter> parameters;  // in wire order; of equal keys the last one counts
  std::vector<InputView> inputs;
  std::vector<RequestedOutputView> outputs;
  std::vector<Bytes> raw_inputs;
  std::vector<Parameter> tensor_parameters;
  std::vector<Bytes> contents_chunks;

  const Parameter* parameter(std::string_view key) const { return find(parameters, key); }
  const Parameter* parameter(Extent extent, std::string_view key) const {
    return find(parameters_of(extent), key);
  }
  std::span<const Parameter> parameters_of(Extent extent) const {
    return std::span(tensor_parameters).subspan(extent.first, extent.count);
  }
  std::span<const Bytes> chunks_of(const InputView& input) const {
    return std::span(contents_chunks)
        .subspan(input.contents.chunks.first, input.contents.chunks.count);
  }

 private:
  void clear();
  bool fail(const char* what, const std::byte* where);
  bool parse_message(Bytes message);
  bool parse_input(Bytes message, InputView& input);
  bool parse_output(Bytes message, RequestedOutputView& output);
  static void add_dim(std::uint64_t value, InputView& input);
  bool parse_contents(Bytes message, ContentsView& contents);
  bool parse_parameter(Bytes entry, std::vector<Parameter>& into);
  bool parse_parameter_value(Bytes message, Parameter& parameter);
  bool read_text(Reader& reader, std::string_view& text);
  static const Parameter* find(std::span<const Parameter> parameters, std::string_view key);

  const char* error_ = nullptr;
  const std::byte* error_at_ = nullptr;
};

}  // namespace gslice::wire
