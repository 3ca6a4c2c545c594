// Robust locks in shared memory: a function's, a device's turn board's. The interleaving tests
// compile their own lock.cpp, whose waiting is a fiber that yields.
#pragma once

#include <pthread.h>

#include <cstdint>

namespace gslice {

class FunctionLock {
 public:
  // Waits at most `patience_ns`: a holder that was stopped must not stop everybody else. A holder's
  // death is repaired here by doing nothing, since the words that it guards are the truth.
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

// Whether a thread lives, without asking the kernel: it holds a robust lock for as long as it does.
namespace presence {

// By the thread itself. False: another holds the lock, and lives.
bool begin(pthread_mutex_t& mutex);
void end(pthread_mutex_t& mutex);
// True, once: who began has died without an end.
bool take_death(pthread_mutex_t& mutex);

}  // namespace presence

}  // namespace gslice
