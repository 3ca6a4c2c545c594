// The copies of a lane's batches between slots and the lane's buffer, on the lane's stream: each
// straight from or to its slot, or, where all are small, through pinned staging in one piece.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/status.hpp"
#include "cuda/context.hpp"
#include "cuda/memory.hpp"
#include "pump/device_table.hpp"

namespace gslice::cuda {

class LaneCopies {
 public:
  // Up to `staging_max_bytes` of a buffer are staged.
  LaneCopies(std::shared_ptr<Context> context, CUstream stream, std::size_t staging_max_bytes);
  Status allocate_staging();

  // Enqueue. The slots' memory must be registered; the lists stay untouched until the stream got
  // there.
  Status gather(std::byte* buffer, std::span<const Copy> list);
  Status scatter(std::byte* buffer, std::span<const Copy> list);
  // After the stream got there: what scatter() has staged goes to its slots.
  void finish_scatter();

  // One copy between device memory and pinned memory, or within the device; enqueued.
  Status copy(std::byte* to, const std::byte* from, std::size_t bytes);

 private:
  // The part of the buffer that a list fills.
  struct Region {
    std::size_t begin = 0, end = 0;
    std::size_t pieces = 0;
    std::size_t bytes() const { return end - begin; }
  };
  static Region region_of(std::span<const Copy> list);
  bool is_staged(const Region& region) const;
  void add(std::byte* to, const std::byte* from, std::size_t bytes);
  Status flush();
  CUresult enqueue_together();
  Status enqueue_one_by_one();
  void clear();

  const std::shared_ptr<Context> context_;
  const CUstream stream_;
  const std::size_t staging_max_bytes_;
  std::unique_ptr<PinnedBuffer> staging_;  // one half for each direction
  std::span<const Copy> staged_;           // of the running scatter
  std::size_t staged_begin_ = 0;
  std::vector<CUdeviceptr> to_, from_;
  std::vector<std::size_t> bytes_;
};

}  // namespace gslice::cuda
