#include "pump/lane_thread.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <string>
#include <system_error>
#include <utility>

namespace gslice {

Status LaneThread::start(std::uint32_t lane, Engine& engine, std::function<void()> work) {
  work_ = std::move(work);
  try {
    thread_ = std::thread([this, lane, &engine] { main(lane, engine); });
  } catch (const std::system_error& error) {
    return Status::Error(Code::kResourceExhausted,
                         "no thread for lane " + std::to_string(lane) + ": " + error.what());
  }
  tid_.wait(0);
  return Status::Ok();
}

void LaneThread::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  tid_.store(0);
  stopping_ = false;
}

void LaneThread::run() {
  {
    const std::lock_guard lock(mutex_);
    handed_over_ = true;
  }
  wake_.notify_one();
}

void LaneThread::main(std::uint32_t lane, Engine& engine) {
  prctl(PR_SET_NAME, ("gslice-lane-" + std::to_string(lane)).c_str());
  engine.enter_thread();
  tid_.store(gettid());
  tid_.notify_all();
  while (wait_for_work()) work_();
  engine.leave_thread();
}

bool LaneThread::wait_for_work() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return stopping_ || handed_over_; });
  return std::exchange(handed_over_, false);
}

}  // namespace gslice
