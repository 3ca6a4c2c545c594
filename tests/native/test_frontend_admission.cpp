// What admission refuses: the code, and words that name the function, the tensor, what came and
// what was expected. After each, every slot is FREE and the outcome is counted once.
#include <string>
#include <vector>

#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;
using namespace std::string_literals;
using namespace std::string_view_literals;

Signature two_inputs() {
  return {{tensor("x", DType::kFp32, {-1, 4}), tensor("s", DType::kBytes, {-1})},
          {tensor("y", DType::kFp32, {-1, 4}), tensor("t", DType::kBytes, {-1})},
          8,
          {}};
}

Proto to_echo() { return Proto().text(1, "echo"); }
Proto x(std::initializer_list<std::int64_t> shape = {1, 4}) { return input("x", "FP32", shape); }
Proto s(std::initializer_list<std::int64_t> shape = {1}) { return input("s", "BYTES", shape); }
const std::string kX(16, 'x');
const std::string kS = elements({"text"});

Proto good() { return to_echo().message(5, x()).message(5, s()).text(7, kX).text(7, kS); }

// "<code> <message>" of a request that must not be admitted.
std::string refusal(const Proto& message, Signature signature = two_inputs()) {
  FrontendBench bench(std::move(signature));
  const auto result = bench.submit(message);
  CHECK(!result.ok());
  CHECK(bench.idle());
  CHECK_EQ(bench.outcome(Outcome::kInvalid), 1u);
  CHECK_EQ(bench.outcome(Outcome::kRejected), 0u);
  CHECK_EQ(bench.outcome(Outcome::kCancelled), 0u);
  CHECK(bench.submit(good()).ok() || bench.submit(echo_request(1)).ok());
  return std::to_string(static_cast<int>(result.status().code)) + " " + result.status().message;
}

std::string invalid(std::string_view words) { return "3 function \"echo\": " + std::string(words); }

}  // namespace

TEST(an_id_is_kept_outside_of_slots_and_so_it_is_short) {
  CHECK_EQ(refusal(good().text(3, std::string(4097, 'i'))),
           "3 function \"echo\": the request's id has 4097 bytes; at most 4096 are taken");
  FrontendBench bench(two_inputs());
  CHECK(bench.submit(good().text(3, std::string(4096, 'i'))).ok());
  CHECK(!bench.submit(good().text(3, std::string(1 << 20, 'i'))).ok());
  CHECK_EQ(bench.frontend.last_id().size(), 4096u);
}

TEST(good_requests) {
  FrontendBench bench(two_inputs());
  CHECK(bench.submit(good()).ok());
  CHECK(bench.submit(good().text(2, "1")).ok());
  CHECK(bench.submit(good().message(4, parameter("priority", Proto().varint(5, 1)))).ok());
  CHECK(bench.submit(good().message(4, parameter("sequence_id", Proto().varint(2, 0)))).ok());
}

TEST(unknown_functions_and_versions) {
  FrontendBench bench;
  auto result = bench.submit(Proto().text(1, "nobody"));
  CHECK(result.status().code == Code::kNotFound);
  CHECK_EQ(result.status().message, "function \"nobody\" is not served here"s);
  result = bench.submit(echo_request(1).text(2, "9"));
  CHECK(result.status().code == Code::kNotFound);
  CHECK_EQ(result.status().message, "function \"echo\": no version \"9\", only \"1\""s);
  result = bench.submit(Proto().raw("\xff\xff"));
  CHECK(result.status().code == Code::kInvalidArgument);
  CHECK(bench.idle());
}

TEST(malformed_after_the_name_counts_for_the_function) {
  CHECK_EQ(refusal(to_echo().raw("\x2a\x7f")),
           invalid("malformed ModelInferRequest: a field is cut off at byte 6 of 8"));
}

TEST(names) {
  CHECK_EQ(refusal(to_echo().message(5, x()).text(7, kX)),
           invalid("input \"s\" is missing; the inputs are \"x\", \"s\""));
  CHECK_EQ(refusal(good().message(5, input("z", "FP32", {1})).text(7, "")),
           invalid("there is no input \"z\"; the inputs are \"x\", \"s\""));
  CHECK_EQ(refusal(good().message(5, x()).text(7, kX)), invalid("input \"x\" came twice"));
  CHECK_EQ(refusal(good().message(6, Proto().text(1, "z"))),
           invalid("there is no output \"z\"; the outputs are \"y\", \"t\""));
  CHECK_EQ(refusal(good().message(6, Proto().text(1, "y")).message(6, Proto().text(1, "y"))),
           invalid("output \"y\" is requested twice"));
}

TEST(data_types) {
  const auto typed = [](std::string_view datatype) {
    return to_echo()
        .message(5, input("x", datatype, {1, 4}))
        .message(5, s())
        .text(7, kX)
        .text(7, kS);
  };
  CHECK_EQ(refusal(typed("INT32")), invalid("input \"x\" is \"INT32\", expected FP32"));
  CHECK_EQ(refusal(typed("")), invalid("input \"x\" is \"\", expected FP32"));
}

TEST(shapes) {
  const auto shaped = [](std::initializer_list<std::int64_t> shape) {
    return refusal(to_echo().message(5, x(shape)).message(5, s()).text(7, kX).text(7, kS));
  };
  CHECK_EQ(shaped({4}), invalid("input \"x\" has shape [4], expected [-1, 4]: rank 1, not 2"));
  CHECK_EQ(shaped({}), invalid("input \"x\" has shape [], expected [-1, 4]: rank 0, not 2"));
  CHECK_EQ(shaped({1, 1, 1, 1, 1, 1, 1, 1, 1}),
           invalid("input \"x\" has shape [1, 1, 1, 1, 1, 1, 1, 1]..., expected [-1, 4]: "
                   "rank 9, not 2"));
  CHECK_EQ(shaped({1, 5}),
           invalid("input \"x\" has shape [1, 5], expected [-1, 4] (-1: any length)"));
  CHECK_EQ(shaped({1, -4}),
           invalid("input \"x\" has shape [1, -4], expected [-1, 4]: dimension 1 is negative"));
  CHECK_EQ(shaped({-1, 4}),
           invalid("input \"x\" has shape [-1, 4], expected [-1, 4]: dimension 0 is negative"));
  CHECK_EQ(shaped({0, 4}),
           invalid("input \"x\" has shape [0, 4], expected [-1, 4] with 1 to 8 rows"));
  CHECK_EQ(shaped({9, 4}),
           invalid("input \"x\" has shape [9, 4], expected [-1, 4] with 1 to 8 rows"));
  CHECK_EQ(shaped({std::int64_t{1} << 32 | 1, 4}),
           invalid("input \"x\" has shape [4294967297, 4], expected [-1, 4] with 1 to 8 rows"));
  CHECK_EQ(refusal(to_echo()
                       .message(5, x({2, 4}))
                       .message(5, s({1}))
                       .text(7, std::string(32, 'x'))
                       .text(7, kS)),
           invalid("input \"s\" has 1 rows, but an input before it has 2; all inputs need the "
                   "same number"));
}

TEST(sizes_that_overflow) {
  const Signature wild{{tensor("x", DType::kFp32, {-1, -1, -1})}, {}, 8, {}};
  const auto shaped = [&](std::initializer_list<std::int64_t> shape) {
    FrontendBench bench(wild);
    const auto result = bench.submit(to_echo().message(5, x(shape)).text(7, kX));
    CHECK(bench.idle());
    return result.status().message;
  };
  const std::int64_t huge = std::int64_t{1} << 62;
  CHECK(shaped({1, huge, 2}).find("whose size overflows") != std::string::npos);
  CHECK(shaped({1, huge, 8}).find("whose size overflows") != std::string::npos);
  CHECK(shaped({8, huge, huge}).find("whose size overflows") != std::string::npos);
  CHECK(shaped({1, huge / 4, 1}).find("expected 4611686018427387904 for FP32") !=
        std::string::npos);
}

TEST(byte_counts) {
  CHECK_EQ(refusal(to_echo().message(5, x()).message(5, s()).text(7, "short").text(7, kS)),
           invalid("input \"x\" has 5 bytes, expected 16 for FP32 [1, 4]"));
  CHECK_EQ(refusal(to_echo().message(5, x()).message(5, s()).text(7, kX)),
           invalid("the request has 1 raw_input_contents for its 2 inputs, expected one each, or "
                   "none with typed contents"));
  CHECK_EQ(refusal(good().text(7, kX)),
           invalid("the request has 3 raw_input_contents for its 2 inputs, expected one each, or "
                   "none with typed contents"));
  CHECK_EQ(refusal(to_echo().message(5, x()).message(5, s())),
           invalid("input \"x\" has 0 elements in its contents, expected 4 by its shape [1, 4]"));
}

TEST(bytes_elements) {
  const auto strings = [](std::string_view data) {
    return refusal(to_echo().message(5, x()).message(5, s()).text(7, kX).text(7, data));
  };
  CHECK_EQ(strings(elements({"a", "b"})),
           invalid("input \"s\" has 2 BYTES elements, expected 1 by its shape"));
  CHECK_EQ(strings(""), invalid("input \"s\" has 0 BYTES elements, expected 1 by its shape"));
  CHECK_EQ(strings("\x01"),
           invalid("input \"s\": BYTES element 0 is cut off; its 4-byte length and data pass the "
                   "tensor's 1 bytes"));
  CHECK_EQ(strings("\xff\xff\xff\xff"
                   "abc"),
           invalid("input \"s\": BYTES element 0 is cut off; its 4-byte length and data pass the "
                   "tensor's 7 bytes"));
}

TEST(contents) {
  const Proto typed = x().message(5, Proto().text(6, kX));
  CHECK_EQ(refusal(to_echo().message(5, typed).message(5, s()).text(7, kX).text(7, kS)),
           invalid("input \"x\" has contents and the request has raw_input_contents; send one"));
  const Proto wrong = x().message(5, Proto().packed(2, {1, 2, 3, 4}));
  CHECK_EQ(refusal(to_echo().message(5, wrong).message(5, s())),
           invalid("input \"x\" is FP32 but has int_contents, expected fp32_contents only"));
  const Proto few = x().message(5, Proto().fixed32(6, 1));
  CHECK_EQ(refusal(to_echo().message(5, few).message(5, s())),
           invalid("input \"x\" has 1 elements in its contents, expected 4 by its shape [1, 4]"));
}

TEST(what_is_not_offered) {
  const Proto region = parameter("shared_memory_region", Proto().text(3, "mine"));
  CHECK_EQ(refusal(to_echo().message(5, x().message(4, region)).message(5, s()).text(7, kS)),
           "12 function \"echo\": input \"x\" is in a client's shared memory "
           "(\"shared_memory_region\"), which is not offered; send it in the message, or set "
           "node.client_memory"s);
  CHECK_EQ(refusal(good().message(6, Proto().text(1, "y").message(2, region))),
           "12 function \"echo\": output \"y\" is in a client's shared memory "
           "(\"shared_memory_region\"), which is not offered; send it in the message, or set "
           "node.client_memory"s);
  CHECK_EQ(refusal(good().message(4, parameter("sequence_id", Proto().text(3, "s1")))),
           "12 function \"echo\": parameter \"sequence_id\": sequences are not offered; send it "
           "without"s);
  CHECK_EQ(
      refusal(good().message(
          6, Proto().text(1, "y").message(2, parameter("classification", Proto().varint(2, 3))))),
      "12 function \"echo\": output \"y\": classification is not offered; ask for the tensor"s);
}

TEST(timeouts_that_are_none) {
  const auto words = invalid("parameter \"timeout\" must be a number of microseconds, 0 or more");
  CHECK_EQ(refusal(good().message(4, parameter("timeout", Proto().text(3, "soon")))), words);
  CHECK_EQ(refusal(good().message(4, parameter("timeout", Proto().fixed64(4, 1)))), words);
  CHECK_EQ(refusal(good().message(4, parameter("timeout", Proto().varint(2, ~std::uint64_t{0})))),
           words);
}

TEST(names_in_messages_are_quoted) {
  const std::string hostile = "a\nb" + std::string(100, 'z');
  const std::string text =
      refusal(to_echo().message(5, input(hostile, "FP32", {1})).text(7, "abcd"));
  CHECK(text.find("\"a\\x0ab" + std::string(61, 'z') + "...\"") != std::string::npos);
}
