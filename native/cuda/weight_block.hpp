// A model's weights in the memory of a device: filled once, then read-only. A block that is shared
// is mapped by other processes through its descriptor; the memory is there as long as anybody maps
// it or holds the descriptor, which needs no CUDA.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.hpp"
#include "cuda/memory.hpp"

namespace gslice::cuda {

class WeightBlock {
 public:
  // To be filled here, then mapped by others. kFailedPrecondition: the device exports no memory.
  static Result<std::unique_ptr<WeightBlock>> create(std::shared_ptr<Context> context,
                                                     std::size_t bytes);
  // To be filled here, for this process alone.
  static Result<std::unique_ptr<WeightBlock>> create_private(std::shared_ptr<Context> context,
                                                             std::size_t bytes);
  // What another process has filled, read-only. `bytes` as it has them; `fd` stays the caller's.
  static Result<std::unique_ptr<WeightBlock>> import(std::shared_ptr<Context> context, int fd,
                                                     std::size_t bytes);
  ~WeightBlock();
  WeightBlock(const WeightBlock&) = delete;
  WeightBlock& operator=(const WeightBlock&) = delete;

  CUdeviceptr address() const { return address_; }
  std::size_t bytes() const { return bytes_; }  // whole pages of the device, if it is shared
  int fd() const { return fd_; }                // -1: it is private
  bool sealed() const { return sealed_; }

  // Copies from the host and waits. kFailedPrecondition: sealed; kInvalidArgument: outside.
  Status write(std::size_t offset, std::span<const std::byte> data);
  // Waits for what fills it; from then on the device lets nobody write to a shared one.
  Status seal();

 private:
  explicit WeightBlock(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  Status allocate(std::size_t bytes);
  Status adopt(int fd, std::size_t bytes);
  Status map(CUmemGenericAllocationHandle handle, std::size_t bytes);
  Status allow(int access);

  const std::shared_ptr<Context> context_;
  std::unique_ptr<DeviceBuffer> own_;  // if it is private
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
  bool reserved_ = false, mapped_ = false, sealed_ = false;
  int fd_ = -1;
};

}  // namespace gslice::cuda
