#include "base/scheduling.hpp"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace gslice {
namespace {

// As in linux/sched/types.h, which glibc's <sched.h> cannot be included beside.
struct SchedAttr {
  std::uint32_t size = sizeof(SchedAttr);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;  // of a fair thread: the length of its turn
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
};

constexpr std::uint64_t kResetOnFork = 0x01;
constexpr std::uint64_t kTurnNs = 100'000;  // the shortest there is

}  // namespace

void ask_for_short_turns() {
  SchedAttr attr;
  if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0) return;
  attr.runtime_ns = kTurnNs;
  syscall(SYS_sched_setattr, 0, &attr, 0);
}

bool run_in_real_time() {
  SchedAttr attr;
  attr.policy = SCHED_FIFO;
  attr.flags = kResetOnFork;
  attr.priority = 1;
  return syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

}  // namespace gslice
