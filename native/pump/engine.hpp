// What the pump hands to an engine: one batch of one shape. No Python here; bind/ adapts it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/signature.hpp"
#include "base/status.hpp"

namespace gslice {

// Bytes that the first `elements` serialised BYTES elements take, or kInternal where they end
// early.
Result<std::size_t> serialised_bytes(std::span<const std::byte> data, std::uint64_t elements);

struct Tensor {
  std::byte* data = nullptr;  // outputs: null while the shape is not known
  std::size_t bytes = 0;
  Shape shape;
};

// Takes outputs whose shape only the engine knows, while the batch runs.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // `data` has been checked against the signature; dim 0 of `shape` is the batch's bucket.
  virtual Status store(std::uint32_t output, const Shape& shape,
                       std::span<const std::byte> data) = 0;
};

// The stream of a batch whose tensors are device memory, which the host never touches. What is
// asked of it runs in order, behind the batch's inputs and before its outputs leave.
class DeviceStream {
 public:
  virtual ~DeviceStream() = default;
  virtual std::uintptr_t handle() const = 0;
  // As engines count lanes: one that has moved to another part of the device has another place.
  virtual std::uint32_t place() const = 0;
  // `data` may be changed as soon as this returns.
  virtual Status copy_from_host(std::byte* to, std::span<const std::byte> data) = 0;
  // `data` must stay until the stream got there.
  virtual Status copy_from_device(std::byte* to, std::span<const std::byte> data) = 0;
  // An output of unknown shape, stored when the batch has ended; `data` as above.
  virtual Status keep(std::uint32_t output, const Shape& shape,
                      std::span<const std::byte> data) = 0;
  // Replays what was captured on it.
  virtual Status launch(void* graph) = 0;
};

// One batch, as an engine sees it. A lane reuses its own, so that steady state allocates nothing.
class Batch {
 public:
  Batch(const Signature& signature, std::uint32_t lane, OutputSink& sink);
  virtual ~Batch() = default;
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  const Signature& signature() const { return signature_; }
  std::uint32_t lane() const { return lane_; }
  // Where it runs, which is what engines prepare for.
  std::uint32_t place() const { return stream_ != nullptr ? stream_->place() : lane_; }
  std::uint32_t rows() const { return rows_; }      // real ones; 1 if not batchable
  std::uint32_t bucket() const { return bucket_; }  // presented ones, with padding
  const Tensor& input(std::uint32_t index) const { return inputs_[index]; }
  const Tensor& output(std::uint32_t index) const { return outputs_[index]; }

  // Where to write an output of known shape; null if it is not known. Asking counts as giving it.
  std::byte* output_target(std::uint32_t index);
  // Gives an output by value: checks type, rank, dims and size, and copies it where it belongs.
  Status set_output(std::uint32_t index, DType dtype, std::span<const std::int64_t> dims,
                    std::span<const std::byte> data);
  // The same for device memory, which must stay until the stream got there.
  Status set_device_output(std::uint32_t index, DType dtype, std::span<const std::int64_t> dims,
                           std::span<const std::byte> data);
  // After the engine: an error that names an output it never gave.
  Status check_given() const;

  std::uint64_t copies() const { return copies_; }  // made by set_output
  std::uint64_t copied_bytes() const { return copied_bytes_; }

  // Keeps the memory of its tensors alive; null: they lie in the segment.
  const std::shared_ptr<void>& buffer() const { return buffer_; }

  // Where its tensors are device memory; null on the CPU device.
  DeviceStream* stream() const { return stream_; }

  // For whoever fills the batch: forgets the last one's outputs and buffer.
  void reset(std::uint32_t rows, std::uint32_t bucket);
  void hold(std::shared_ptr<void> buffer) { buffer_ = std::move(buffer); }
  void lie_on(DeviceStream& stream) { stream_ = &stream; }
  Status store(std::uint32_t index, const Shape& shape, std::span<const std::byte> data) {
    return sink_.store(index, shape, data);
  }
  Tensor& input_slot(std::uint32_t index) { return inputs_[index]; }
  Tensor& output_slot(std::uint32_t index) { return outputs_[index]; }

 private:
  Status check_output(std::uint32_t index, DType dtype, std::span<const std::int64_t> dims,
                      std::span<const std::byte> data) const;

  const Signature& signature_;
  OutputSink& sink_;
  const std::uint32_t lane_;
  std::uint32_t rows_ = 0;
  std::uint32_t bucket_ = 0;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::vector<bool> given_;
  std::shared_ptr<void> buffer_;
  DeviceStream* stream_ = nullptr;
  std::uint64_t copies_ = 0;
  std::uint64_t copied_bytes_ = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  // True: run() takes long or waits, so every lane gets a thread. False: it runs in the pump's.
  virtual bool blocking() const = 0;
  // True: output i is input i where it lies. Nothing is moved, and run() finds no tensors.
  virtual bool in_place() const { return false; }
  // Runs one batch: outputs of known shape go to output_target(), all others to set_output().
  virtual Status run(Batch& batch) = 0;
  // Around the life of a thread that will call run().
  virtual void enter_thread() {}
  virtual void leave_thread() {}
};

// The engine's call and what must hold after it.
inline Status run_checked(Engine& engine, Batch& batch) {
  Status status = engine.run(batch);
  return status.ok() && !engine.in_place() ? batch.check_given() : status;
}

}  // namespace gslice
