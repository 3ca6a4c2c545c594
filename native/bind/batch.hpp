// A batch as Python sees it: views of slot or lane memory, valid only during the call.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "pump/engine.hpp"

namespace gslice {

// One Python object for each lane; `batch` is set during the engine's call only.
struct BatchView {
  Batch* batch = nullptr;
  std::shared_ptr<void> memory;  // where tensors lie that are in no lane's buffer

  Batch& checked() const;
};

// A batch outside any segment, for warm-up: its outputs are checked and dropped. Its only base has
// to lie at its start, as nanobind knows no other place.
class WarmBatch final : public BatchView {
 public:
  WarmBatch(const Signature& signature, std::uint32_t lane, std::uint32_t bucket,
            const nanobind::sequence& inputs, const std::vector<std::vector<std::int64_t>>& shapes);

 private:
  struct Drop final : OutputSink {
    Status store(std::uint32_t, const Shape&, std::span<const std::byte>) override {
      return Status::Ok();
    }
  };
  using Buffers = std::vector<std::vector<std::byte>>;

  void fill_input(std::uint32_t index, const nanobind::object& given,
                  const std::vector<std::int64_t>& dims);
  void place_outputs();
  std::byte* allocate(std::size_t bytes);

  Signature signature_;
  Drop drop_;
  Batch own_;
  std::shared_ptr<Buffers> buffers_ = std::make_shared<Buffers>();
};

void bind_batch(nanobind::module_& module);

}  // namespace gslice
