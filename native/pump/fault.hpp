// How an instance tells its process that the device is lost: once, and for good.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <mutex>
#include <string>

#include "base/status.hpp"

namespace gslice {

class Fault {
 public:
  ~Fault() {
    if (fd_ >= 0) close(fd_);
  }

  // An eventfd that becomes readable with the fault. Stays the owner's.
  int fd() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // What happened; empty: nothing.
  std::string line() const {
    const std::lock_guard lock(mutex_);
    return line_;
  }
  void raise(const Status& status) {
    {
      const std::lock_guard lock(mutex_);
      line_ = status.message;
    }
    eventfd_write(fd_, 1);
  }

 private:
  const int fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  mutable std::mutex mutex_;
  std::string line_;
};

}  // namespace gslice
