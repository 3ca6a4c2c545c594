// A device as this process uses it: the primary context, which the libraries of engines share, and
// every driver call that the hot path must not make, counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/status.hpp"
#include "cuda/driver.hpp"

namespace gslice::cuda {

struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  std::string uuid;        // "GPU-..."
  int driver_version = 0;  // 13000: CUDA 13.0
  int sm_count = 0;        // that this process may use: under MPS those of its share
  int compute_major = 0, compute_minor = 0;
  std::size_t memory_bytes = 0;
  bool exports_memory = false;  // as descriptors, which other processes map
};

struct Counters {
  std::atomic<std::uint64_t> synchronise_calls{0};
  std::atomic<std::uint64_t> allocations{0};     // device and pinned memory, registrations
  std::atomic<std::uint64_t> copies{0};          // enqueued one by one
  std::atomic<std::uint64_t> batched_copies{0};  // enqueued several in a call
  std::atomic<std::uint64_t> staged_copies{0};   // gathered or scattered by memcpy, moved as one
  std::atomic<std::uint64_t> graph_launches{0};
};

class Context {
 public:
  // kFailedPrecondition: no such device; kUnavailable: MPS refuses; kResourceExhausted: no memory.
  static Result<std::shared_ptr<Context>> open(int ordinal);
  // Gives the primary context back: whatever was made in it holds this, and so is gone.
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceInfo& info() const { return info_; }
  const Driver& driver() const { return driver_; }
  CUdevice device() const { return device_; }
  Counters& counters() { return *counters_; }
  const std::shared_ptr<Counters>& counters_of() const { return counters_; }  // outlive this

  // Makes the context current in the calling thread, for the calls that follow.
  Status enter() { return check(driver_.cuCtxSetCurrent(context_), "cuCtxSetCurrent"); }

  // Every result passes here: what ends the device's use is remembered.
  Status check(CUresult result, const char* function);
  // The device can not be used any more, for a reason that no driver call names.
  void lose(const Status& status);
  // The first error after which the device was lost; ok while it is not.
  Status lost() const;

  // Whether several copies can be enqueued in one call, as far as is known.
  bool batches_copies() const { return batches_copies_.load(std::memory_order_relaxed); }
  void copy_one_by_one() { batches_copies_.store(false, std::memory_order_relaxed); }

  Result<CUstream> create_stream();  // on all of the device; the caller's, to destroy
  Result<std::size_t> memory_free_bytes();
  Status synchronise(CUstream stream);
  // What `after` gets from now on waits for what `before` has got: for streams of the user's.
  Status order(CUstream before, CUstream after);

 private:
  Context(const Driver& driver, CUdevice device) : driver_(driver), device_(device) {}
  Status describe(int ordinal);

  const Driver& driver_;
  const CUdevice device_;
  CUcontext context_ = nullptr;
  DeviceInfo info_;
  const std::shared_ptr<Counters> counters_ = std::make_shared<Counters>();
  std::atomic<bool> batches_copies_{driver_.cuMemcpyBatchAsync != nullptr};
  mutable std::mutex lost_mutex_;
  Status lost_;
};

}  // namespace gslice::cuda
