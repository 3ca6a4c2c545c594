// What the fake driver is made of. One mutex guards all of it: a fake may be slow, never subtle.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../machine/machine.hpp"
#include "api.hpp"
#include "mps.hpp"
#include "plan.hpp"

namespace fake {

// Done when the stream got there. An event's record makes one, whoever waits holds it.
struct Marker {
  bool done = false;
  std::int64_t done_ns = 0;
};

// Host memory that the device may reach: registered, or allocated by cuMemHostAlloc.
struct HostRange {
  std::uintptr_t start = 0;
  std::size_t bytes = 0;
  bool allocated = false;
  int device = 0;
  int in_flight = 0;  // operations that still use it
};

// Memory of cuMemCreate. It goes with the last descriptor or mapping, of whatever process.
struct Allocation {
  ~Allocation();

  int memory_fd = -1;
  std::size_t bytes = 0;
  int device = 0;
  bool counted = false;  // as this process's own
};

struct DeviceRange {
  CUdeviceptr start = 0;
  std::size_t bytes = 0;
  std::size_t mapped_bytes = 0;
  char* memory = nullptr;  // `start`, unless the settings say opaque=1
  int memory_fd = -1;
  int device = 0;
  bool imported = false;                 // cuIpcOpenMemHandle
  std::shared_ptr<Allocation> mapped{};  // cuMemMap; `memory` is where the driver itself has it
  bool readable = true, writable = true;
};

struct Operation {
  const char* kind = "";  // h2d, d2h, d2d, memset, kernel, host, graph, mark
  std::function<CUresult()> run{};
  std::vector<std::shared_ptr<HostRange>> hosts{};
  std::shared_ptr<Marker> after{};    // not before this is done
  std::shared_ptr<Marker> signals{};  // done with it
};

struct Capture {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  CUstream origin = nullptr;
  bool invalidated = false;
  // In the order they were issued, which keeps every order between forked streams too.
  std::vector<Operation> operations;
  std::set<CUgreenCtx> greens;  // whose streams were given some
};

}  // namespace fake

struct CUctx_st {
  int device = 0;
  std::atomic<int> retained = 0;
  CUstream legacy = nullptr;      // stream 0
  CUstream per_thread = nullptr;  // stream 2: one for all threads here
};

struct CUdevResourceDesc_st {
  int device = 0;
  unsigned sms = 0;
};

struct CUgreenCtx_st {
  CUcontext context = nullptr;  // the primary one
  unsigned sms = 0;
};

struct CUevent_st {
  unsigned flags = 0;
  std::shared_ptr<fake::Marker> recorded;
  std::shared_ptr<fake::Capture> captured;
};

struct CUstream_st {
  CUcontext context = nullptr;
  CUgreenCtx green = nullptr;
  unsigned flags = 0;
  int priority = 0;
  bool running = false;
  bool stopping = false;
  std::deque<fake::Operation> queue;
  std::shared_ptr<fake::Capture> capture;

  bool idle() const { return queue.empty() && !running; }
};

struct CUgraph_st {
  std::vector<fake::Operation> operations;
  std::set<CUgreenCtx> greens;  // whose streams it was captured on
};

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<fake::Operation>> operations;
  std::set<CUgreenCtx> greens;
};

namespace fake {

struct Core {
  static Core& get();

  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<bool> initialised = false;
  Table* counters = nullptr;

  Plan plan;
  MpsClient mps;
  std::vector<const Gpu*> gpus;   // visible to this process, by ordinal
  std::deque<CUctx_st> contexts;  // the primary ones, by device
  std::set<CUstream> streams;
  std::set<CUstream> retired;  // destroyed, and not yet at their end
  std::set<CUevent> events;
  std::vector<std::shared_ptr<Capture>> captures;  // under way
  std::set<CUgraph> graphs;
  std::set<CUgraphExec> executables;
  std::set<CUgreenCtx> green_contexts;                           // green.cpp
  std::set<std::unique_ptr<CUdevResourceDesc_st>> descriptions;  // likewise
  unsigned splits = 0;                                           // likewise
  std::map<CUdeviceptr, DeviceRange> device_ranges;
  std::map<std::uintptr_t, std::shared_ptr<HostRange>> host_ranges;
  std::map<CUmemGenericAllocationHandle, std::shared_ptr<Allocation>> allocations;  // vmm.cpp
  std::map<CUdeviceptr, std::size_t> reservations;                                  // likewise

  // The threads that run a host function now. Not thread_local: gcc 12's leak sanitizer crashes at
  // exit over the dynamic TLS of threads that still live then.
  std::mutex host_functions_mutex;
  std::set<std::thread::id> host_functions;

  // What cuInit does, once: attaches to MPS, finds the devices that this process may see.
  CUresult initialise();
  const Gpu& gpu(int device) const { return *gpus[static_cast<std::size_t>(device)]; }
  int device_count() const { return static_cast<int>(gpus.size()); }
  int effective_sms(int device) const;  // of those that this process may use
  // CUDA_SUCCESS, or what every later call returns: an operation failed here, the MPS server says
  // that this client is terminated, or that another client's operation failed.
  CUresult lost() const;
  // By an operation on `device`; under MPS every other client of the server learns of it.
  void lose(CUresult result, int device);

  void count(std::string_view name, std::int64_t by = 1);
  // The test did what a GPU would not forgive: counted, told, and refused.
  CUresult violation(const std::string& what);

 private:
  Core();

  std::atomic<int> lost_ = CUDA_SUCCESS;
  std::atomic<std::uint64_t>* mps_error_ = nullptr;
};

using Lock = std::unique_lock<std::mutex>;

enum class Needs { kNothing, kInit, kContext };

// What stands first in every entry point: counts the call, and says why it cannot go on.
CUresult enter(const char* function, Needs needs = Needs::kContext);
void run_host_function(CUhostFn function, void* user_data);
bool in_host_function();  // where CUDA must not be called
CUcontext current_context();

std::int64_t now_ns();

// streams.cpp. Null for no such stream of the current context.
CUstream find_stream(CUstream handle);
CUstream make_stream(CUcontext context, CUgreenCtx green, unsigned flags, int priority);
int sms_of(CUstream stream);  // that its kernels may use
CUresult enqueue(Lock& lock, CUstream stream, Operation operation);
void wait_idle(Lock& lock, CUstream stream);
void wait_all_idle(Lock& lock, CUcontext context);
// The error for a call that a capture forbids now (CUDA_SUCCESS: none); such a call ends the
// capture.
CUresult refused_by_capture(const char* function);
// The same for a call that waits for all of a context: whoever captures a stream of it, and how.
CUresult refused_by_any_capture(const char* function, CUcontext context);
void destroy_streams(Lock& lock, CUcontext context);

// memory.cpp
struct Place {
  enum class Kind { kDevice, kPinned, kPageable, kStraddles } kind = Kind::kPageable;
  void* address = nullptr;  // where this process reads and writes it
  std::shared_ptr<HostRange> host;
  bool writable = true;  // by the device
};
Place resolve(std::uint64_t address, std::size_t bytes);
void free_memory_of(int device);
std::uint64_t memory_used_bytes(int device);
// Whether so much more fits, into the GPU and into what MPS lets this process have of it.
bool memory_fits(int device, std::size_t bytes);
void* map_guarded(int fd, std::size_t bytes);
void unmap_guarded(void* mapped, std::size_t bytes);

// vmm.cpp
void unmap(const DeviceRange& range);
void free_allocations();

}  // namespace fake
