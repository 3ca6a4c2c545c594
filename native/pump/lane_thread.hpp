// The thread of a lane whose engine blocks: it does one piece of work at a time, when told to.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "base/status.hpp"
#include "pump/engine.hpp"

namespace gslice {

class LaneThread {
 public:
  LaneThread() = default;
  ~LaneThread() { stop(); }
  LaneThread(const LaneThread&) = delete;
  LaneThread& operator=(const LaneThread&) = delete;

  // `work` runs once for each run(); `lane` names the thread. kResourceExhausted: no thread.
  Status start(std::uint32_t lane, Engine& engine, std::function<void()> work);
  // What was handed over still runs. Idempotent.
  void stop();

  bool running() const { return thread_.joinable(); }
  void run();
  int tid() const { return tid_.load(); }  // 0: not running

 private:
  void main(std::uint32_t lane, Engine& engine);
  bool wait_for_work();

  std::function<void()> work_;
  std::thread thread_;
  std::atomic<int> tid_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool handed_over_ = false;
  bool stopping_ = false;
};

}  // namespace gslice
