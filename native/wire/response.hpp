// Writes inference.ModelInferResponse, alone or inside inference.ModelStreamInferResponse: first
// the exact size, so that the caller allocates once, then the bytes, each tensor copied once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "wire/reader.hpp"

namespace gslice::wire {

// Where an output was written instead of into the answer; told as the parameters shared_memory_*.
struct PlaceView {
  std::string_view region;  // empty: it is in the answer
  std::uint64_t offset_bytes = 0;
  std::uint64_t bytes = 0;
};

struct OutputView {
  std::string_view name;
  std::string_view datatype;
  std::span<const std::int64_t> dims;
  Bytes data;  // every output has its raw_output_contents entry, even an empty one
  PlaceView place = {};
};

struct ResponseView {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::span<const OutputView> outputs;
  // Inside ModelStreamInferResponse, with the parameter `triton_final_response` set: there is one
  // answer for each request, so each is the last.
  bool stream = false;
};

// The size on the wire; nothing if it is past protobuf's limit of 2 GiB - 1.
std::optional<std::size_t> response_bytes(const ResponseView& response);

// `out` has exactly response_bytes(response).
void write_response(const ResponseView& response, std::span<std::byte> out);

// The same without a copy: appends what is not tensors to `text`, and to `pieces` the whole answer
// in order, by where it lies: in `text`, which must not move meanwhile, and where the tensors are.
void lend_response(const ResponseView& response, std::vector<std::byte>& text,
                   std::vector<Bytes>& pieces);

// An error in a stream: inference.ModelStreamInferResponse with `error_message`, the request's id,
// `triton_final_response`, and the status code as the parameter `gslice_code`.
std::vector<std::byte> stream_error(std::string_view id, int code, std::string_view message);

}  // namespace gslice::wire
