// The wire codec: what is accepted, what is refused and with which words, and the exact bytes.
#include <limits>
#include <string>
#include <vector>

#include "check.hpp"
#include "proto_builder.hpp"
#include "wire/contents.hpp"
#include "wire/request.hpp"
#include "wire/response.hpp"
#include "wire/text.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_view_literals;
using namespace std::string_literals;
using wire::Parameter;
using wire::Request;

bool refuses(const Proto& message, std::string_view reason) {
  Request request;
  const Status status = request.parse(message.bytes());
  return status.code == Code::kInvalidArgument && status.message.find(reason) != std::string::npos;
}

bool same(std::span<const std::int64_t> dims, std::initializer_list<std::int64_t> expected) {
  return std::vector(dims.begin(), dims.end()) == std::vector(expected);
}

// The raw tensor that typed contents stand for; the error's message if they do not fit.
std::string converted(DType dtype, const Proto& contents) {
  const Proto tensor = input("x", dtype_info(dtype).name, {1}).message(5, contents);
  Request request;
  const Proto message = Proto().message(5, tensor);
  CHECK(request.parse(message.bytes()).ok());
  const auto size = wire::check_contents(request, request.inputs[0], dtype);
  if (!size.ok()) return size.status().message;
  std::string out(size.value().bytes, '\xee');
  wire::write_contents(request, request.inputs[0], dtype, std::as_writable_bytes(std::span(out)));
  return out;
}

}  // namespace

TEST(request_with_all_fields) {
  const Proto tensor =
      input("data", "FP32", {2, -1, 3}).message(4, parameter("p", Proto().varint(2, 7)));
  const Proto output = Proto().text(1, "out").message(2, parameter("q", Proto().varint(1, 1)));
  const Proto message = Proto()
                            .text(1, "model")
                            .text(2, "3")
                            .text(3, "id-1")
                            .message(4, parameter("timeout", Proto().varint(2, 1000)))
                            .message(4, parameter("ratio", Proto().fixed64(4, 0.5)))
                            .message(4, parameter("name", Proto().text(3, "text")))
                            .message(4, parameter("priority", Proto().varint(5, ~std::uint64_t{0})))
                            .message(5, tensor)
                            .message(6, output)
                            .text(7, "raw bytes");
  Request request;
  CHECK(request.parse(message.bytes()).ok());
  CHECK_EQ(request.model_name, "model"sv);
  CHECK_EQ(request.model_version, "3"sv);
  CHECK_EQ(request.id, "id-1"sv);
  CHECK_EQ(request.parameter("timeout")->integer, 1000u);
  CHECK(request.parameter("timeout")->kind == Parameter::Kind::kInt64);
  CHECK_EQ(request.parameter("ratio")->real, 0.5);
  CHECK_EQ(request.parameter("name")->text, "text"sv);
  CHECK_EQ(request.parameter("priority")->integer, ~std::uint64_t{0});
  CHECK(request.parameter("absent") == nullptr);
  CHECK_EQ(request.inputs.size(), 1u);
  CHECK_EQ(request.inputs[0].name, "data"sv);
  CHECK_EQ(request.inputs[0].datatype, "FP32"sv);
  CHECK(same(request.inputs[0].shape(), {2, -1, 3}));
  CHECK(!request.inputs[0].contents.present());
  CHECK_EQ(request.parameter(request.inputs[0].parameters, "p")->integer, 7u);
  CHECK(request.parameter(request.inputs[0].parameters, "q") == nullptr);
  CHECK_EQ(request.outputs.size(), 1u);
  CHECK_EQ(request.outputs[0].name, "out"sv);
  CHECK_EQ(request.parameter(request.outputs[0].parameters, "q")->integer, 1u);
  CHECK_EQ(request.raw_inputs.size(), 1u);
  CHECK_EQ(view_of(request.raw_inputs[0]), "raw bytes"sv);
  // In place: the tensor's bytes are the message's own.
  CHECK(request.raw_inputs[0].data() > message.bytes().data());
  CHECK(request.raw_inputs[0].data() < message.bytes().data() + message.bytes().size());
}

TEST(second_parse_forgets_the_first) {
  Request request;
  const Proto full = Proto().text(1, "m").text(3, "id").message(5, input("x", "FP32", {1}));
  CHECK(request.parse(full.bytes()).ok());
  CHECK(request.parse({}).ok());
  CHECK_EQ(request.model_name, ""sv);
  CHECK_EQ(request.id, ""sv);
  CHECK(request.inputs.empty());
}

TEST(protobuf_merge_rules) {
  Proto tensor;
  tensor.text(1, "a").text(1, "b").varint(3, 4).packed(3, {5, 6}).varint(3, 7);
  tensor.message(5, Proto().packed(2, {1, 2})).message(5, Proto().varint(2, 3));
  const Proto message = Proto()
                            .text(1, "first")
                            .text(1, "last")
                            .message(4, parameter("k", Proto().varint(2, 1)))
                            .message(4, parameter("k", Proto().varint(2, 2).varint(1, 1)))
                            .message(5, tensor);
  Request request;
  CHECK(request.parse(message.bytes()).ok());
  CHECK_EQ(request.model_name, "last"sv);
  CHECK_EQ(request.inputs[0].name, "b"sv);
  CHECK(same(request.inputs[0].shape(), {4, 5, 6, 7}));
  CHECK(request.parameter("k")->kind == Parameter::Kind::kBool);
  CHECK_EQ(request.inputs[0].contents.count(wire::ContentsField::kInt), 3u);
  std::vector<std::uint64_t> values;
  wire::for_each_element<std::uint64_t>(request, request.inputs[0], wire::ContentsField::kInt,
                                        [&](std::uint64_t value) { values.push_back(value); });
  CHECK(values == (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST(unknown_fields_and_other_wire_types_are_skipped) {
  const Proto message = Proto()
                            .varint(99, 1)
                            .fixed32(98, 1)
                            .fixed64(97, 1)
                            .text(96, "?")
                            .varint(1, 5)  // model_name is no varint
                            .text(1, "model")
                            .message(5, Proto().fixed64(3, 1).text(1, "x").varint(77, 1))
                            .message(6, Proto().varint(1, 3));
  Request request;
  CHECK(request.parse(message.bytes()).ok());
  CHECK_EQ(request.model_name, "model"sv);
  CHECK_EQ(request.inputs[0].name, "x"sv);
  CHECK_EQ(request.inputs[0].rank, 0u);
  CHECK_EQ(request.outputs[0].name, ""sv);
}

TEST(malformed_messages) {
  CHECK(refuses(Proto().raw("\xff"), "a field tag is wrong at byte 0 of 1"));
  CHECK(refuses(Proto().tag(0, 0), "a field tag is wrong"));
  CHECK(refuses(Proto().tag(9, 6), "a field tag is wrong"));
  CHECK(refuses(Proto().raw("\x80\x80\x80\x80\x80\x01"), "a field tag is wrong"));
  CHECK(refuses(Proto().tag(9, 3), "an unknown field is cut off or a group"));
  CHECK(refuses(Proto().tag(9, 4), "an unknown field is cut off or a group"));
  CHECK(refuses(Proto().tag(9, 0).raw(std::string(11, '\xff')), "an unknown field"));
  CHECK(refuses(Proto().raw("\x0a\x05mode"), "a string is cut off at byte 1 of 6"));
  CHECK(refuses(Proto().text(1, "\xc3("), "a string is not UTF-8"));
  CHECK(refuses(Proto().tag(7, 2).raw("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "cut off"));
  CHECK(refuses(Proto().message(5, Proto().tag(3, 2).raw("\x01\x80")), "a shape is malformed"));
  CHECK(refuses(Proto().message(5, Proto().tag(3, 0)), "a dimension is cut off"));
  CHECK(refuses(Proto().message(5, Proto().message(5, Proto().text(6, "abc"))),
                "packed contents are malformed"));
  CHECK(refuses(Proto().message(5, Proto().message(5, Proto().text(2, "\x80"))),
                "packed contents are malformed"));
  CHECK(refuses(Proto().message(4, Proto().message(2, Proto().tag(4, 1).raw("short"))),
                "a parameter's value is malformed"));
}

TEST(every_prefix_of_a_request_is_refused_or_shorter) {
  const Proto message =
      Proto().text(1, "model").message(5, input("x", "FP32", {2, 2})).text(7, std::string(16, 'x'));
  Request request;
  for (std::size_t length = 0; length < message.bytes().size(); ++length) {
    const Status status = request.parse(message.bytes().first(length));
    CHECK(request.raw_inputs.empty());
    CHECK(status.ok() || status.code == Code::kInvalidArgument);
  }
}

TEST(hostile_counts_are_bounded) {
  Proto inputs;
  for (std::size_t i = 0; i <= kMaxTensors; ++i) inputs.message(5, Proto());
  CHECK(refuses(inputs, "more than 32 inputs"));
  Proto outputs;
  for (std::size_t i = 0; i <= kMaxTensors; ++i) outputs.message(6, Proto());
  CHECK(refuses(outputs, "more than 32 outputs"));
  Proto raw;
  for (std::size_t i = 0; i <= kMaxTensors; ++i) raw.text(7, "");
  CHECK(refuses(raw, "more than 32 raw_input_contents"));
  Proto parameters;
  for (std::size_t i = 0; i <= wire::kMaxParameters; ++i) parameters.message(4, Proto());
  CHECK(refuses(parameters, "more than 256 parameters"));
  Proto contents;
  for (std::size_t i = 0; i <= wire::kMaxContents; ++i) contents.message(5, Proto());
  CHECK(refuses(Proto().message(5, contents), "more than 256 contents"));

  Request request;
  const Proto deep = Proto().message(5, input("x", "FP32", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  CHECK(request.parse(deep.bytes()).ok());
  CHECK_EQ(request.inputs[0].rank, 10u);
  CHECK_EQ(request.inputs[0].shape().size(), kMaxRank);
}

TEST(typed_contents_of_every_type) {
  CHECK_EQ(converted(DType::kBool, Proto().packed(1, {0, 1, 2})), "\x00\x01\x01"s);
  CHECK_EQ(converted(DType::kInt8, Proto().packed(2, {-128, 127})),
           (raw_of<std::int8_t>({-128, 127})));
  CHECK_EQ(converted(DType::kInt16, Proto().packed(2, {-32768, 32767})),
           (raw_of<std::int16_t>({-32768, 32767})));
  CHECK_EQ(converted(DType::kInt32, Proto().varint(2, ~std::uint64_t{0}).packed(2, {5})),
           (raw_of<std::int32_t>({-1, 5})));
  CHECK_EQ(converted(DType::kInt64, Proto().packed(3, {std::numeric_limits<std::int64_t>::min()})),
           (raw_of<std::int64_t>({std::numeric_limits<std::int64_t>::min()})));
  CHECK_EQ(converted(DType::kUint8, Proto().packed(4, {0, 255})), (raw_of<std::uint8_t>({0, 255})));
  CHECK_EQ(converted(DType::kUint16, Proto().packed(4, {65535})), (raw_of<std::uint16_t>({65535})));
  CHECK_EQ(converted(DType::kUint32, Proto().packed(4, {0xffffffff})),
           (raw_of<std::uint32_t>({0xffffffff})));
  CHECK_EQ(converted(DType::kUint64, Proto().packed(5, {-1})),
           (raw_of<std::uint64_t>({~std::uint64_t{0}})));
  CHECK_EQ(converted(DType::kFp32, Proto().fixed32(6, 1.5f).text(6, raw_of<float>({2.5f, -0.f}))),
           (raw_of<float>({1.5f, 2.5f, -0.f})));
  CHECK_EQ(converted(DType::kFp64, Proto().text(7, raw_of<double>({0.1})).fixed64(7, 0.2)),
           (raw_of<double>({0.1, 0.2})));
  CHECK_EQ(converted(DType::kBytes, Proto().text(8, "").text(8, "a\xff")), elements({"", "a\xff"}));
}

TEST(typed_contents_that_do_not_fit) {
  CHECK_EQ(converted(DType::kInt8, Proto().packed(2, {1, 128})),
           "input \"x\" is INT8 but element 1 of int_contents is 128, out of its range"s);
  CHECK_EQ(converted(DType::kInt16, Proto().packed(2, {-32769})),
           "input \"x\" is INT16 but element 0 of int_contents is -32769, out of its range"s);
  CHECK_EQ(converted(DType::kUint8, Proto().packed(4, {256})),
           "input \"x\" is UINT8 but element 0 of uint_contents is 256, out of its range"s);
  CHECK_EQ(converted(DType::kUint16, Proto().packed(4, {65536})),
           "input \"x\" is UINT16 but element 0 of uint_contents is 65536, out of its range"s);
  CHECK_EQ(converted(DType::kFp32, Proto().packed(2, {1})),
           "input \"x\" is FP32 but has int_contents, expected fp32_contents only"s);
  CHECK_EQ(converted(DType::kFp16, Proto().fixed32(6, 1)),
           "input \"x\" has typed contents, but FP16 must be sent as raw_input_contents"s);
  CHECK_EQ(converted(DType::kBf16, Proto()),
           "input \"x\" has typed contents, but BF16 must be sent as raw_input_contents"s);
}

TEST(response_bytes_are_exact) {
  const std::vector<std::int64_t> dims{2, 300};
  const std::string data(300, 'd');
  const std::vector<wire::OutputView> outputs{{"y", "UINT8", dims, std::as_bytes(std::span(data))},
                                              {"empty", "FP32", {}, {}}};
  const auto body = [](bool stream) {
    Proto message;
    message.text(1, "m").text(2, "1").text(3, "id");
    if (stream) message.message(4, parameter("triton_final_response", Proto().varint(1, 1)));
    return message.message(5, input("y", "UINT8", {2, 300}))
        .message(5, input("empty", "FP32", {}))
        .text(6, std::string(300, 'd'))
        .text(6, "");
  };
  for (const bool stream : {false, true}) {
    const wire::ResponseView response{"m", "1", "id", outputs, stream};
    std::string out(wire::response_bytes(response).value(), '\xee');
    wire::write_response(response, std::as_writable_bytes(std::span(out)));
    CHECK_EQ(out, stream ? Proto().message(2, body(true)).str() : body(false).str());
  }
}

TEST(response_past_two_gibibytes_has_no_size) {
  // Never dereferenced: only sizes are added up.
  static constexpr std::byte kByte{};
  const std::vector<wire::OutputView> outputs{
      {"y", "UINT8", {}, wire::Bytes(&kByte, std::size_t{1} << 31)}};
  CHECK(!wire::response_bytes({"m", "1", "", outputs, false}).has_value());
}

TEST(quoting_is_harmless) {
  CHECK_EQ(wire::quoted("plain"), "\"plain\""s);
  CHECK_EQ(wire::quoted("a\n\"\\\x01\xff"), "\"a\\x0a\\x22\\x5c\\x01\\xff\""s);
  CHECK_EQ(wire::quoted("gr\xc3\xbc\xc3\x9f"), "\"gr\xc3\xbc\xc3\x9f\""s);
  CHECK_EQ(wire::quoted(std::string(65, 'x')), "\"" + std::string(64, 'x') + "...\"");
  CHECK(wire::is_utf8(wire::quoted("\xf0\x9f\x98")));
}

TEST(utf8) {
  for (const auto good : {""sv, "12345678"sv, "1234567\xc3\xbc"sv, "\xe2\x82\xac"sv,
                          "\xf0\x9f\x98\x80"sv, "\xed\x9f\xbf"sv, "\xf4\x8f\xbf\xbf"sv})
    CHECK(wire::is_utf8(good));
  for (const auto bad :
       {"\x80"sv, "\xc0\x80"sv, "\xc3"sv, "\xe0\x9f\xbf"sv, "\xed\xa0\x80"sv, "\xf0\x8f\xbf\xbf"sv,
        "\xf4\x90\x80\x80"sv, "\xf5\x80\x80\x80"sv, "12345678\xff"sv, "\xe2\x82"sv})
    CHECK(!wire::is_utf8(bad));
}
