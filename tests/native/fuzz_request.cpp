// Fuzz of everything that reads a client's bytes: the parse, the conversion of typed contents, and
// admission up to the slot. Under libFuzzer (GSLICE_FUZZER) as long as it is asked to; otherwise a
// bounded run over mutations of valid requests, the same each time for the same seed.
//
//   fuzz_request [iterations [seed]]
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "frontend/frontend.hpp"
#include "proto_builder.hpp"
#include "wire/contents.hpp"
#include "wire/request.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;

void require(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "fuzz_request: broken: %s\n", what);
  std::abort();
}

Signature signature() {
  return {{{"x", DType::kFp32, {-1, 4}}, {"s", DType::kBytes, {-1, -1}}, {"i", DType::kInt8, {-1}}},
          {{"y", DType::kFp32, {-1, 4}}},
          8,
          {}};
}

volatile std::uint64_t sink;  // so that reading is not optimised away
std::uint64_t admitted = 0;

// Touches what views refer to, so that a view outside the message is seen.
std::uint64_t checksum(wire::Bytes bytes) {
  std::uint64_t sum = 0;
  for (const std::byte byte : bytes) sum = sum * 31 + std::to_integer<std::uint64_t>(byte);
  return sum;
}

void convert_contents(const wire::Request& request, const wire::InputView& input) {
  const DType dtype = dtype_from_name(input.datatype);
  if (dtype == DType::kInvalid || !input.contents.present()) return;
  const auto size = wire::check_contents(request, input, dtype);
  if (!size.ok()) return;
  // Over two fillings: every byte of the tensor is written, and the byte after it is not.
  std::array<std::vector<std::byte>, 2> out;
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i].assign(size.value().bytes + 1, i == 0 ? std::byte{0xa5} : std::byte{0x5a});
    wire::write_contents(request, input, dtype, std::span(out[i]).first(size.value().bytes));
    require(out[i].back() == (i == 0 ? std::byte{0xa5} : std::byte{0x5a}),
            "typed contents wrote past their size");
    out[i].pop_back();
  }
  require(out[0] == out[1], "typed contents left bytes as they were");
}

void parse_alone(wire::Bytes message) {
  wire::Request request;
  const Status status = request.parse(message);
  require(status.ok() || status.code == Code::kInvalidArgument, "a parse fails in one way");
  if (!status.ok()) return;
  std::uint64_t sum = request.model_name.size() + request.id.size();
  for (const wire::Bytes raw : request.raw_inputs) sum += checksum(raw);
  for (const wire::InputView& input : request.inputs) {
    sum += request.parameters_of(input.parameters).size();
    convert_contents(request, input);
  }
  sink = sum;
}

// The front-end may refuse whatever it wants, but a slot that it queued is sound, and none leaks.
void submit(wire::Bytes message) {
  static const auto segment = [] {
    auto made = Segment::create({"f", {{kPageBytes, 2}}, kPageBytes, 1});
    require(made.ok(), "the segment");
    made.value()->activate_frontend(0);
    return made.take();
  }();
  static Frontend frontend(0);
  static const bool added = frontend.add_function("f", "1", segment, signature(), 0).ok();
  require(added, "the function");

  const auto id = frontend.submit(message, kNever);
  if (id.ok()) {
    const SlotHeader& slot = segment->slot(static_cast<std::uint32_t>(id.value() >> 32 & 0xffff));
    require(slot.rows >= 1 && slot.rows <= 8, "rows of an admitted request");
    for (std::uint32_t i = 0; i < slot.input_count; ++i) {
      const TensorRecord& input = slot.inputs[i];
      require(segment->bytes_at(input.offset, input.bytes).size() == input.bytes,
              "a tensor's place");
      require(input.offset + input.bytes <= slot.output_offset, "inputs end before the outputs");
    }
    frontend.cancel(id.value());
    ++admitted;
  } else {
    require(!id.status().message.empty(), "an error has words");
    require(id.status().message.find('\n') == std::string::npos, "a message is one line");
  }
  require(segment->count_states()[0] == segment->slot_count(), "all slots are free");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const wire::Bytes message = std::as_bytes(std::span(data, size));
  parse_alone(message);
  submit(message);
  return 0;
}

#ifndef GSLICE_FUZZER
namespace {

// Requests that are admitted, and between them all fields and both ways of sending tensors.
std::vector<std::string> seeds() {
  const std::string strings = elements({"one", "", "three", "4"});
  const Proto raw = Proto()
                        .text(1, "f")
                        .text(2, "1")
                        .text(3, "id")
                        .message(4, parameter("timeout", Proto().varint(2, 1'000'000)))
                        .message(4, parameter("priority", Proto().varint(5, 1)))
                        .message(5, input("x", "FP32", {2, 4}))
                        .message(5, input("s", "BYTES", {2, 2}))
                        .message(5, input("i", "INT8", {2}))
                        .message(6, Proto().text(1, "y"))
                        .text(7, std::string(32, 'x'))
                        .text(7, strings)
                        .text(7, "ab");
  const Proto typed =
      Proto()
          .text(1, "f")
          .message(5, input("i", "INT8", {2}).message(5, Proto().packed(2, {-128, 127})))
          .message(5, input("s", "BYTES", {2, 2})
                          .message(5, Proto().text(8, "a").text(8, "").text(8, "c"))
                          .message(5, Proto().text(8, "d")))
          .message(5, input("x", "FP32", {2, 4})
                          .message(5, Proto().fixed32(6, 1).text(6, std::string(28, 'x'))));
  Proto every;
  for (const auto& info : kDTypes)
    every.message(5, input("x", info.name, {1, 2})
                         .message(5, Proto()
                                         .packed(1, {1, 0})
                                         .packed(2, {1, -1})
                                         .packed(3, {1, -1})
                                         .packed(4, {1, 70000})
                                         .packed(5, {1, -1})
                                         .text(6, "12345678")
                                         .fixed64(7, 0.5)
                                         .text(8, "bytes")));
  return {raw.str(), typed.str(), every.str()};
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::string mutate(const std::vector<std::string>& corpus) {
    std::string data = corpus[below(corpus.size())];
    for (std::size_t count = 1 + below(4); count > 0; --count) change(data, corpus);
    return data;
  }

 private:
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void change(std::string& data, const std::vector<std::string>& corpus) {
    // Values at which lengths, varints and tags change their meaning.
    static constexpr std::array<unsigned char, 10> kEdges{0x00, 0x01, 0x07, 0x0a, 0x2a,
                                                          0x3a, 0x7f, 0x80, 0xfe, 0xff};
    const std::size_t at = below(data.size());
    switch (below(7)) {
      case 0:
        if (!data.empty()) data[at] = static_cast<char>(data[at] ^ (1 << below(8)));
        break;
      case 1:
        if (!data.empty()) data[at] = static_cast<char>(kEdges[below(kEdges.size())]);
        break;
      case 2:
        data.insert(at, 1 + below(10), static_cast<char>(kEdges[below(kEdges.size())]));
        break;
      case 3:
        data.erase(at, 1 + below(8));
        break;
      case 4:
        data.resize(at);
        break;
      case 5: {  // a piece of another one
        const std::string& other = corpus[below(corpus.size())];
        data.insert(at, other.substr(below(other.size()), below(64)));
        break;
      }
      default:
        data.insert(at, data.substr(below(data.size()), below(32)));
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t iterations = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 50'000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20'240'229;
  std::printf("fuzz_request: %llu iterations, seed %llu\n",
              static_cast<unsigned long long>(iterations), static_cast<unsigned long long>(seed));
  const auto corpus = seeds();
  const auto run = [](const std::string& data) {
    // Of exactly its size, so that a read one byte past it is seen.
    const std::vector<std::uint8_t> exact(data.begin(), data.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  };
  for (const std::string& data : corpus) run(data);
  require(admitted == 2, "two seeds are valid requests");
  Mutator mutator(seed);
  for (std::uint64_t i = 0; i < iterations; ++i) run(mutator.mutate(corpus));
  std::printf("fuzz_request: %llu were admitted\n", static_cast<unsigned long long>(admitted));
  return 0;
}
#endif
