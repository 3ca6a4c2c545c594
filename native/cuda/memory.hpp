// Memory that a device computes in or copies with. Each kind gives itself back; what the driver
// refuses to take back goes with the process.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/status.hpp"
#include "cuda/context.hpp"

namespace gslice::cuda {

// The same, with how much memory it was about.
Status sized(Status status, std::size_t bytes);

// Memory of the device. Its addresses are never read or written by the host.
class DeviceBuffer {
 public:
  static Result<std::unique_ptr<DeviceBuffer>> create(std::shared_ptr<Context> context,
                                                      std::size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
  std::size_t bytes() const { return bytes_; }

 private:
  DeviceBuffer(std::shared_ptr<Context> context, CUdeviceptr address, std::size_t bytes)
      : context_(std::move(context)), address_(address), bytes_(bytes) {}

  const std::shared_ptr<Context> context_;
  const CUdeviceptr address_;
  const std::size_t bytes_;
};

// Host memory that DMA reaches.
class PinnedBuffer {
 public:
  static Result<std::unique_ptr<PinnedBuffer>> create(std::shared_ptr<Context> context,
                                                      std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  PinnedBuffer(std::shared_ptr<Context> context, std::byte* data, std::size_t bytes)
      : context_(std::move(context)), data_(data), bytes_(bytes) {}

  const std::shared_ptr<Context> context_;
  std::byte* const data_;
  const std::size_t bytes_;
};

// Host memory of somebody else that DMA reaches while this lives. Several processes may register
// their own mappings of the same pages.
class RegisteredMemory {
 public:
  static Result<std::unique_ptr<RegisteredMemory>> create(std::shared_ptr<Context> context,
                                                          std::span<std::byte> memory);
  ~RegisteredMemory();
  RegisteredMemory(const RegisteredMemory&) = delete;
  RegisteredMemory& operator=(const RegisteredMemory&) = delete;

 private:
  RegisteredMemory(std::shared_ptr<Context> context, std::byte* data)
      : context_(std::move(context)), data_(data) {}

  const std::shared_ptr<Context> context_;
  std::byte* const data_;
};

// Pinned memory for the length of one batch. It keeps what it has, so that steady state allocates
// nothing; what was handed out stays where it is until clear().
class PinnedArena {
 public:
  explicit PinnedArena(std::shared_ptr<Context> context) : context_(std::move(context)) {}

  Result<std::byte*> take(std::size_t bytes);
  void clear() { chunk_ = used_ = 0; }
  void drop() {
    clear();
    chunks_.clear();
  }

 private:
  const std::shared_ptr<Context> context_;
  std::vector<std::unique_ptr<PinnedBuffer>> chunks_;
  std::size_t chunk_ = 0;  // the one that is being used up
  std::size_t used_ = 0;   // bytes of it
};

}  // namespace gslice::cuda
