// The function's robust lock. The interleaving tests compile their own lock.cpp, whose waiting is a
// fiber that yields.
#pragma once

#include <pthread.h>

#include <cstdint>

namespace gslice {

class FunctionLock {
 public:
  // Waits at most `patience_ns`: a holder that was stopped must not stop everybody else. A holder's
  // death is repaired here by doing nothing, since the slot words are the truth.
  FunctionLock(pthread_mutex_t& mutex, std::int64_t patience_ns);
  ~FunctionLock();
  FunctionLock(const FunctionLock&) = delete;
  FunctionLock& operator=(const FunctionLock&) = delete;

  bool held() const { return held_; }

  // Makes a process-shared, robust mutex in shared memory. 0, or the error number.
  static int initialise(pthread_mutex_t& mutex);

 private:
  pthread_mutex_t& mutex_;
  bool held_ = false;
};

}  // namespace gslice
