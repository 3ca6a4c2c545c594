#include "wire/contents.hpp"

#include <array>
#include <limits>
#include <string_view>

#include "wire/text.hpp"

namespace gslice::wire {
namespace {

constexpr std::array<std::string_view, kContentsFields> kFieldNames{
    "bool_contents",   "int_contents",  "int64_contents", "uint_contents",
    "uint64_contents", "fp32_contents", "fp64_contents",  "bytes_contents"};

// The field that carries a data type; nothing for those that must be raw.
constexpr ContentsField kNoField{};
ContentsField field_of(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return ContentsField::kBool;
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
      return ContentsField::kInt;
    case DType::kInt64:
      return ContentsField::kInt64;
    case DType::kUint8:
    case DType::kUint16:
    case DType::kUint32:
      return ContentsField::kUint;
    case DType::kUint64:
      return ContentsField::kUint64;
    case DType::kFp32:
      return ContentsField::kFp32;
    case DType::kFp64:
      return ContentsField::kFp64;
    case DType::kBytes:
      return ContentsField::kBytes;
    default:
      return kNoField;
  }
}

std::string_view field_name(ContentsField field) {
  return kFieldNames[static_cast<std::size_t>(field) - 1];
}

Status invalid(const InputView& input, std::string message) {
  return Status::Error(Code::kInvalidArgument, concat("input ", quoted(input.name), " ", message));
}

// Whether every value, read as protobuf's `Wire` (which truncates varints), fits `Narrow`.
template <typename Wire, typename Narrow>
Status check_range(const Request& request, const InputView& input, ContentsField field) {
  std::uint64_t index = 0;
  Status status = Status::Ok();
  for_each_element<std::uint64_t>(request, input, field, [&](std::uint64_t varint) {
    const auto value = static_cast<Wire>(varint);
    if (status.ok() &&
        (value < std::numeric_limits<Narrow>::min() || value > std::numeric_limits<Narrow>::max()))
      status = invalid(input, concat("is ", input.datatype, " but element ", index, " of ",
                                     field_name(field), " is ", value, ", out of its range"));
    ++index;
  });
  return status;
}

Status check_ranges(const Request& request, const InputView& input, DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return check_range<std::int32_t, std::int8_t>(request, input, ContentsField::kInt);
    case DType::kInt16:
      return check_range<std::int32_t, std::int16_t>(request, input, ContentsField::kInt);
    case DType::kUint8:
      return check_range<std::uint32_t, std::uint8_t>(request, input, ContentsField::kUint);
    case DType::kUint16:
      return check_range<std::uint32_t, std::uint16_t>(request, input, ContentsField::kUint);
    default:
      return Status::Ok();
  }
}

// Appends values to a buffer whose size `check_contents` has computed; the bound is kept all the
// same, because a mistake here would write into another request's slot.
class ContentsWriter {
 public:
  explicit ContentsWriter(std::span<std::byte> out) : left_(out) {}

  template <typename T>
  void put(T value) {
    put(Bytes(reinterpret_cast<const std::byte*>(&value), sizeof(T)));
  }
  void put(Bytes bytes) {
    if (bytes.size() > left_.size()) return;
    if (!bytes.empty()) std::memcpy(left_.data(), bytes.data(), bytes.size());
    left_ = left_.subspan(bytes.size());
  }

 private:
  std::span<std::byte> left_;
};

template <typename Element>
void write_varints(const Request& request, const InputView& input, ContentsField field,
                   ContentsWriter& writer) {
  for_each_element<std::uint64_t>(request, input, field, [&](std::uint64_t value) {
    if constexpr (std::is_same_v<Element, bool>)
      writer.put(static_cast<std::uint8_t>(value != 0));
    else
      writer.put(static_cast<Element>(value));
  });
}

template <typename Element>
void write_fixed(const Request& request, const InputView& input, ContentsField field,
                 ContentsWriter& writer) {
  for_each_element<Element>(request, input, field, [&](Element value) { writer.put(value); });
}

}  // namespace

Result<ContentsSize> check_contents(const Request& request, const InputView& input, DType dtype) {
  const ContentsField field = field_of(dtype);
  if (field == kNoField)
    return invalid(input, concat("has typed contents, but ", dtype_info(dtype).name,
                                 " must be sent as raw_input_contents"));
  for (std::size_t i = 0; i < kContentsFields; ++i)
    if (const auto other = static_cast<ContentsField>(i + 1);
        other != field && input.contents.count(other) != 0)
      return invalid(input, concat("is ", dtype_info(dtype).name, " but has ", kFieldNames[i],
                                   ", expected ", field_name(field), " only"));
  if (Status status = check_ranges(request, input, dtype); !status.ok()) return status;

  const std::uint64_t elements = input.contents.count(field);
  const std::uint64_t element_bytes = dtype == DType::kBytes ? 4 : dtype_info(dtype).element_bytes;
  return ContentsSize{elements, elements * element_bytes + input.contents.data_bytes};
}

void write_contents(const Request& request, const InputView& input, DType dtype,
                    std::span<std::byte> out) {
  ContentsWriter writer(out);
  const ContentsField field = field_of(dtype);
  switch (dtype) {
    case DType::kBool:
      return write_varints<bool>(request, input, field, writer);
    case DType::kUint8:
    case DType::kInt8:
      return write_varints<std::uint8_t>(request, input, field, writer);
    case DType::kUint16:
    case DType::kInt16:
      return write_varints<std::uint16_t>(request, input, field, writer);
    case DType::kUint32:
    case DType::kInt32:
      return write_varints<std::uint32_t>(request, input, field, writer);
    case DType::kUint64:
    case DType::kInt64:
      return write_varints<std::uint64_t>(request, input, field, writer);
    case DType::kFp32:
      return write_fixed<float>(request, input, field, writer);
    case DType::kFp64:
      return write_fixed<double>(request, input, field, writer);
    case DType::kBytes:
      return for_each_element<Bytes>(request, input, field, [&](Bytes element) {
        writer.put(static_cast<std::uint32_t>(element.size()));
        writer.put(element);
      });
    default:
      return;
  }
}

}  // namespace gslice::wire
