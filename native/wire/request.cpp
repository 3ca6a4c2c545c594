#include "wire/request.hpp"

#include <algorithm>
#include <bit>

#include "wire/text.hpp"

namespace gslice::wire {
namespace {

static_assert(kMaxTensors == 32 && kMaxParameters == 256 && kMaxContents == 256,
              "messages below name them");

// The elements in a packed run of varints; false where the run is malformed.
bool count_varints(Bytes run, std::uint32_t& count) {
  std::size_t length = 0;
  for (const std::byte byte : run) {
    if (++length > kMaxVarintBytes) return false;
    if (std::to_integer<std::uint8_t>(byte) < 0x80) {
      ++count;
      length = 0;
    }
  }
  return length == 0;
}

bool count_fixed(Bytes run, std::size_t element_bytes, std::uint32_t& count) {
  count += static_cast<std::uint32_t>(run.size() / element_bytes);
  return run.size() % element_bytes == 0;
}

WireType element_type(ContentsField field) {
  switch (field) {
    case ContentsField::kFp32:
      return WireType::kFixed32;
    case ContentsField::kFp64:
      return WireType::kFixed64;
    case ContentsField::kBytes:
      return WireType::kLength;
    default:
      return WireType::kVarint;
  }
}

bool count_packed(Bytes run, WireType element, std::uint32_t& count) {
  if (element == WireType::kVarint) return count_varints(run, count);
  return count_fixed(run, element == WireType::kFixed32 ? 4 : 8, count);
}

}  // namespace

void Request::clear() {
  model_name = model_version = id = {};
  parameters.clear();
  inputs.clear();
  outputs.clear();
  raw_inputs.clear();
  tensor_parameters.clear();
  contents_chunks.clear();
  error_ = nullptr;
  error_at_ = nullptr;
}

Status Request::parse(Bytes message) {
  clear();
  if (parse_message(message)) return Status::Ok();
  return Status::Error(Code::kInvalidArgument,
                       concat("malformed ModelInferRequest: ", error_, " at byte ",
                              error_at_ - message.data(), " of ", message.size()));
}

bool Request::fail(const char* what, const std::byte* where) {
  if (error_ == nullptr) {  // the innermost cause
    error_ = what;
    error_at_ = where;
  }
  return false;
}

bool Request::read_text(Reader& reader, std::string_view& text) {
  const std::byte* start = reader.position();
  Bytes bytes;
  if (!reader.bytes(bytes)) return fail("a string is cut off", start);
  text = as_text(bytes);
  return is_utf8(text) || fail("a string is not UTF-8", start);
}

bool Request::parse_message(Bytes message) {
  Reader reader(message);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.tag(field, type)) return fail("a field tag is wrong", start);
    if (type != WireType::kLength || field > 7) {
      if (!reader.skip(type)) return fail("an unknown field is cut off or a group", start);
      continue;
    }
    if (field <= 3) {
      std::string_view& text = field == 1 ? model_name : field == 2 ? model_version : id;
      if (!read_text(reader, text)) return false;
      continue;
    }
    Bytes value;
    if (!reader.bytes(value)) return fail("a field is cut off", start);
    switch (field) {
      case 4:
        if (!parse_parameter(value, parameters)) return false;
        break;
      case 5:
        if (inputs.size() == kMaxTensors) return fail("more than 32 inputs", start);
        if (!parse_input(value, inputs.emplace_back())) return false;
        break;
      case 6:
        if (outputs.size() == kMaxTensors) return fail("more than 32 outputs", start);
        if (!parse_output(value, outputs.emplace_back())) return false;
        break;
      default:
        if (raw_inputs.size() == kMaxTensors) return fail("more than 32 raw_input_contents", start);
        raw_inputs.push_back(value);
    }
  }
  return true;
}

void Request::add_dim(std::uint64_t value, InputView& input) {
  if (input.rank < kMaxRank) input.dims[input.rank] = std::bit_cast<std::int64_t>(value);
  ++input.rank;
}

bool Request::parse_input(Bytes message, InputView& input) {
  input.parameters.first = static_cast<std::uint32_t>(tensor_parameters.size());
  input.contents.chunks.first = static_cast<std::uint32_t>(contents_chunks.size());
  Reader reader(message);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.tag(field, type)) return fail("a field tag of an input is wrong", start);
    if (field == 3 && type == WireType::kVarint) {
      std::uint64_t dim = 0;
      if (!reader.varint(dim)) return fail("a dimension is cut off", start);
      add_dim(dim, input);
      continue;
    }
    if (type != WireType::kLength || field > 5) {
      if (!reader.skip(type)) return fail("an unknown field of an input is wrong", start);
      continue;
    }
    if (field <= 2) {
      if (!read_text(reader, field == 1 ? input.name : input.datatype)) return false;
      continue;
    }
    Bytes value;
    if (!reader.bytes(value)) return fail("a field of an input is cut off", start);
    if (field == 3) {
      Reader dims(value);
      for (std::uint64_t dim = 0; !dims.at_end(); add_dim(dim, input))
        if (!dims.varint(dim)) return fail("a shape is malformed", start);
    } else if (field == 4) {
      if (!parse_parameter(value, tensor_parameters)) return false;
      ++input.parameters.count;
    } else {
      if (contents_chunks.size() == kMaxContents) return fail("more than 256 contents", start);
      if (!parse_contents(value, input.contents)) return false;
      contents_chunks.push_back(value);
      ++input.contents.chunks.count;
    }
  }
  return true;
}

bool Request::parse_output(Bytes message, RequestedOutputView& output) {
  output.parameters.first = static_cast<std::uint32_t>(tensor_parameters.size());
  Reader reader(message);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    Bytes value;
    if (!reader.tag(field, type)) return fail("a field tag of an output is wrong", start);
    if (field == 1 && type == WireType::kLength) {
      if (!read_text(reader, output.name)) return false;
    } else if (field == 2 && type == WireType::kLength) {
      if (!reader.bytes(value)) return fail("a parameter is cut off", start);
      if (!parse_parameter(value, tensor_parameters)) return false;
      ++output.parameters.count;
    } else if (!reader.skip(type)) {
      return fail("an unknown field of an output is wrong", start);
    }
  }
  return true;
}

bool Request::parse_contents(Bytes message, ContentsView& contents) {
  Reader reader(message);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t number = 0;
    WireType type{};
    if (!reader.tag(number, type)) return fail("a field tag of contents is wrong", start);
    const bool known = number <= kContentsFields;
    const auto field = static_cast<ContentsField>(known ? number : 0);
    if (!known || (type != element_type(field) && type != WireType::kLength)) {
      if (!reader.skip(type)) return fail("an unknown field of contents is wrong", start);
      continue;
    }
    std::uint32_t& count = contents.elements[number - 1];
    if (type != WireType::kLength) {  // one element that is not packed
      if (!reader.skip(type)) return fail("an element of contents is cut off", start);
      ++count;
      continue;
    }
    Bytes run;
    if (!reader.bytes(run)) return fail("contents are cut off", start);
    if (field == ContentsField::kBytes) {
      contents.data_bytes += run.size();
      ++count;
    } else if (!count_packed(run, element_type(field), count)) {
      return fail("packed contents are malformed", start);
    }
  }
  return true;
}

bool Request::parse_parameter(Bytes entry, std::vector<Parameter>& into) {
  if (into.size() == kMaxParameters) return fail("more than 256 parameters", entry.data());
  Parameter& parameter = into.emplace_back();
  Reader reader(entry);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    Bytes value;
    if (!reader.tag(field, type)) return fail("a field tag of a parameter is wrong", start);
    if (field == 1 && type == WireType::kLength) {
      if (!read_text(reader, parameter.key)) return false;
    } else if (field == 2 && type == WireType::kLength) {
      if (!reader.bytes(value)) return fail("a parameter's value is cut off", start);
      if (!parse_parameter_value(value, parameter)) return false;
    } else if (!reader.skip(type)) {
      return fail("an unknown field of a parameter is wrong", start);
    }
  }
  return true;
}

bool Request::parse_parameter_value(Bytes message, Parameter& parameter) {
  using Kind = Parameter::Kind;
  Reader reader(message);
  while (!reader.at_end()) {
    const std::byte* start = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    bool good = reader.tag(field, type);
    if (good && type == WireType::kVarint && (field == 1 || field == 2 || field == 5)) {
      good = reader.varint(parameter.integer);
      parameter.kind = field == 1 ? Kind::kBool : field == 2 ? Kind::kInt64 : Kind::kUint64;
      if (field == 1) parameter.integer = parameter.integer != 0;
    } else if (good && type == WireType::kLength && field == 3) {
      if (!read_text(reader, parameter.text)) return false;
      parameter.kind = Kind::kString;
    } else if (good && type == WireType::kFixed64 && field == 4) {
      good = reader.fixed(parameter.real);
      parameter.kind = Kind::kDouble;
    } else if (good) {
      good = reader.skip(type);
    }
    if (!good) return fail("a parameter's value is malformed", start);
  }
  return true;
}

const Parameter* Request::find(std::span<const Parameter> parameters, std::string_view key) {
  const auto last = std::find_if(parameters.rbegin(), parameters.rend(),
                                 [&](const Parameter& each) { return each.key == key; });
  return last == parameters.rend() ? nullptr : &*last;
}

}  // namespace gslice::wire
