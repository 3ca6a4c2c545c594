#include "segment/lock.hpp"

#include <time.h>

#include <cerrno>

namespace gslice {

namespace {

// timedlock and not clocklock: ThreadSanitizer of g++ 12 does not know the latter. A jump of the
// wall clock can only make one wait shorter or longer.
int lock_within(pthread_mutex_t& mutex, std::int64_t patience_ns) {
  const int tried = pthread_mutex_trylock(&mutex);
  if (tried != EBUSY) return tried;
  timespec until{};
  clock_gettime(CLOCK_REALTIME, &until);
  const std::int64_t nanoseconds = until.tv_nsec + patience_ns;
  until.tv_sec += nanoseconds / 1'000'000'000;
  until.tv_nsec = nanoseconds % 1'000'000'000;
  return pthread_mutex_timedlock(&mutex, &until);
}

}  // namespace

FunctionLock::FunctionLock(pthread_mutex_t& mutex, std::int64_t patience_ns) : mutex_(mutex) {
  const int locked = lock_within(mutex, patience_ns);
  if (locked == EOWNERDEAD) pthread_mutex_consistent(&mutex);
  held_ = locked == 0 || locked == EOWNERDEAD;
}

FunctionLock::~FunctionLock() {
  if (held_) pthread_mutex_unlock(&mutex_);
}

int FunctionLock::initialise(pthread_mutex_t& mutex) {
  pthread_mutexattr_t attributes;
  int error = pthread_mutexattr_init(&attributes);
  if (error != 0) return error;
  error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  if (error == 0) error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  if (error == 0) error = pthread_mutex_init(&mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  return error;
}

namespace presence {

namespace {

// Nobody but its owner holds it for longer than a look.
constexpr std::int64_t kMutexPatienceNs = 1'000'000'000;

}  // namespace

bool begin(pthread_mutex_t& mutex) {
  const int locked = lock_within(mutex, kMutexPatienceNs);
  if (locked == EOWNERDEAD) pthread_mutex_consistent(&mutex);
  return locked == 0 || locked == EOWNERDEAD;
}

void end(pthread_mutex_t& mutex) { pthread_mutex_unlock(&mutex); }

bool take_death(pthread_mutex_t& mutex) {
  const int locked = pthread_mutex_trylock(&mutex);
  if (locked == EOWNERDEAD) pthread_mutex_consistent(&mutex);
  if (locked == 0 || locked == EOWNERDEAD) pthread_mutex_unlock(&mutex);
  return locked == EOWNERDEAD;
}

}  // namespace presence

}  // namespace gslice
