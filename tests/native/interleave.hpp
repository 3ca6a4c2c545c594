// A systematic explorer of interleavings. A scenario's threads are fibers; every access to shared
// memory (`schedule_point`) may switch between them. All schedules with at most so many preemptions
// are run, depth first, each from a fresh start; switches where a fiber blocks or ends are free.
// Sequential consistency only: weaker orders are ThreadSanitizer's business.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace gslice::interleave {

// One run of a scenario under one schedule.
class World {
 public:
  // A fiber that must finish; one that does not, when nobody can run, is stuck for ever.
  void fiber(std::function<void()> body);
  // A fiber that may sleep for ever, such as a pump with nothing to do.
  void background(std::function<void()> body);
  // Runs them all to the end. False: somebody is stuck (a lost wake-up or a deadlock).
  bool run();

 private:
  friend struct Scheduler;
  struct Body {
    std::function<void()> run;
    bool background;
  };
  std::vector<Body> bodies_;
};

struct Limits {
  int preemptions = 2;
  std::size_t schedules = 500'000;  // reaching it is an error: what was not run was not checked
};

struct Exploration {
  std::size_t schedules = 0;
  bool complete = false;  // every schedule within the limits was run
  std::string failure;    // the first one's message; empty: none
};

// Runs `scenario` under every schedule until one fails. It fails by a failed CHECK or `require`.
Exploration explore(const Limits& limits, const std::function<void(World&)>& scenario);

// For scenarios that are meant to fail: like CHECK, without printing.
void require(bool holds, const char* what);

// Between two accesses of a scenario's own, such as an eventfd: sleeps until `ready()`.
void block_until(const std::function<bool()>& ready);

}  // namespace gslice::interleave
