// A batch as Python sees it: views of slot or lane memory, valid only during the call.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "cuda/cuda_device.hpp"
#include "pump/engine.hpp"
#include "pump/lane_layout.hpp"

namespace gslice {

// One Python object for each lane; `batch` is set during the engine's call only.
struct BatchView {
  Batch* batch = nullptr;
  std::shared_ptr<void> memory;  // where tensors lie that are in no lane's buffer

  Batch& checked() const;
};

// A batch outside any segment, for warm-up. On a device it lies in its lane's buffer, as a served
// one does. Its only base has to lie at its start, as nanobind knows no other place.
class WarmBatch final : public BatchView {
 public:
  WarmBatch(const Signature& signature, std::uint32_t lane, std::uint32_t bucket,
            const nanobind::sequence& inputs, const std::vector<std::vector<std::int64_t>>& shapes,
            const std::shared_ptr<cuda::CudaDevice>& device);
  ~WarmBatch();
  WarmBatch(const WarmBatch&) = delete;
  WarmBatch& operator=(const WarmBatch&) = delete;

  // Until what was enqueued for it has run; on the CPU nothing is left to wait for.
  void finish();
  nanobind::object output_host(std::uint32_t index);

 private:
  // Outputs of unknown shape, as they were given.
  struct Stored final : OutputSink {
    struct Output {
      Shape shape;
      std::vector<std::byte> data;
    };
    Status store(std::uint32_t output, const Shape& shape,
                 std::span<const std::byte> data) override {
      outputs[output] = {shape, {data.begin(), data.end()}};
      return Status::Ok();
    }
    std::map<std::uint32_t, Output> outputs;
  };
  using Buffers = std::vector<std::vector<std::byte>>;

  void reserve_lane(const std::vector<std::vector<std::int64_t>>& shapes);
  void fill_input(std::uint32_t index, const nanobind::object& given,
                  const std::vector<std::int64_t>& dims);
  void place_outputs();
  std::byte* allocate(std::size_t bytes);

  Signature signature_;
  Stored stored_;
  Batch own_;
  std::shared_ptr<Buffers> buffers_ = std::make_shared<Buffers>();
  std::shared_ptr<cuda::CudaLane> lane_;  // null: on the CPU
  std::byte* lane_buffer_ = nullptr;
  LaneLayout layout_;
};

void bind_batch(nanobind::module_& module);

}  // namespace gslice
