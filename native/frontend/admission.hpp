// Admission: does a parsed request fit the function's signature, and can its answer come in time?
// Pure functions of what they are handed; the front-end does the leasing and copying.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/signature.hpp"
#include "base/status.hpp"
#include "frontend/regions.hpp"
#include "wire/request.hpp"

namespace gslice {

// Of a request's id, which is kept outside of its slot until it is answered.
inline constexpr std::size_t kIdBytesMax = 4 << 10;

struct AdmittedInput {
  const wire::InputView* view = nullptr;
  wire::Bytes raw;           // unless typed
  ClientArea area;           // where they come from instead, if it has a region
  bool typed = false;        // the bytes come from `contents`
  std::uint64_t bytes = 0;   // as a row-major tensor
  std::uint64_t offset = 0;  // in the payload, aligned
};

// The outputs to answer with, by index in the signature, in the order of the answer.
struct OutputChoice {
  std::array<std::uint8_t, kMaxTensors> index{};
  std::uint32_t count = 0;
};

// An output that goes to the client's memory.
struct OutputArea {
  std::uint32_t position = 0;  // in the answer
  ClientArea area;
};

struct Admission {
  std::array<AdmittedInput, kMaxTensors> inputs{};  // in the signature's order
  OutputChoice outputs;
  std::array<OutputArea, kMaxTensors> areas{};
  std::uint32_t area_count = 0;
  std::uint32_t rows = 0;          // 0: the function is not batchable
  std::uint64_t shape_key = 0;     // of all data types and non-batch dims
  std::uint64_t input_bytes = 0;   // aligned inputs: where the output area starts
  std::uint64_t output_bytes = 0;  // aligned outputs whose shapes are known
  std::int64_t timeout_us = 0;     // of the `timeout` parameter; 0: none
};

// kInvalidArgument, kUnimplemented, or kNotFound for a region: the message names the tensor, what
// came and what was expected. The caller puts the function's name in front. `regions`: those of
// whoever sent it.
Status admit(const Signature& signature, const wire::Request& request,
             const CallersRegions& regions, Admission& admission);

// BYTES that came from a client's memory: only what has been copied out of it can be checked.
Status check_elements(std::string_view input, wire::Bytes data, std::uint64_t expected);

// An output's place in a client's memory is too small for it.
Status too_small(std::string_view output, std::uint64_t bytes, const ClientArea& area);

// Gives a request that was cut before its tensors the raw_input_contents that should follow: sizes
// without an address. False: these cannot be told from what it says.
bool expect_raw_inputs(const Signature& signature, wire::Request& request);

struct Load {
  std::int64_t batch_estimate_ns = 0;  // its wait for a turn included; 0: unknown
  std::int64_t queued_rows = 0;        // requests if the function is not batchable
  std::uint32_t batch_rows = 1;        // rows of a batch at most
  std::uint32_t instances = 1;         // that pull
};

// When a request of `rows` rows that is queued now should be answered: as many batches as its
// place in the queue takes, shared by the instances. `now` if the estimate is not known.
std::int64_t predicted_finish_ns(const Load& load, std::uint32_t rows, std::int64_t now);

}  // namespace gslice
