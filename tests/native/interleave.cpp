#include "interleave.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "base/atomic.hpp"
#include "base/futex.hpp"
#include "segment/lock.hpp"

namespace gslice {

namespace interleave {

namespace {

constexpr std::size_t kStackBytes = 512 << 10;

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct Abandoned {};  // unwinds a fiber that is stuck when its world ends

struct Stack {
  void* base =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Stack() = default;
  ~Stack() { munmap(base, kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
};

struct Fiber {
  ucontext_t context{};
  Stack stack;
  std::function<void()> body;
  bool background = false;
  bool finished = true;
  std::function<bool()> ready;  // empty: it can run
  const void* futex = nullptr;  // it sleeps on this word until woken

  bool can_run() const { return !finished && futex == nullptr && (!ready || ready()); }
};

// A place where more than one fiber could go on: which ones, and which was chosen.
struct Choice {
  std::size_t options = 0;
  std::size_t chosen = 0;
};

}  // namespace

struct Scheduler {
  std::deque<Fiber> fibers;  // kept from run to run for their stacks
  std::size_t live = 0;      // fibers of this world
  ucontext_t home{};
  std::optional<std::size_t> current;  // none: the scenario's own code runs, undisturbed
  bool abandoning = false;
  std::exception_ptr error;

  std::vector<Choice> trail;  // of the schedule that is run
  std::size_t position = 0;
  int preemptions_left = 0;

  std::map<const void*, std::size_t> locks;  // mutex -> fiber that holds it

  void run(World& world);
  void enter(std::size_t next);
  void leave();
  void yield();
  void sleep(std::function<bool()> ready);
  std::size_t choose(std::size_t options);
  std::vector<std::size_t> runnable() const;
  bool next_schedule();
};

namespace {

Scheduler& scheduler() {
  static Scheduler one;
  return one;
}

void fiber_main() {
  Scheduler& s = scheduler();
  Fiber& self = s.fibers[*s.current];
  try {
    if (!s.abandoning) self.body();
  } catch (const Abandoned&) {
    // Its world is over.
  } catch (...) {
    if (!s.error) s.error = std::current_exception();
  }
  self.finished = true;
  setcontext(&s.home);
}

// By itself, because getcontext might return twice.
void prepare(Fiber& fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.base;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

}  // namespace

std::size_t Scheduler::choose(std::size_t options) {
  if (options == 1) return 0;
  if (position == trail.size()) trail.push_back({options, 0});
  const Choice& choice = trail[position++];
  if (choice.options != options)
    throw Broken("the scenario is not deterministic: a schedule could not be repeated");
  return choice.chosen;
}

// The next schedule in depth-first order: the last choice that has another option takes it.
bool Scheduler::next_schedule() {
  while (!trail.empty() && ++trail.back().chosen == trail.back().options) trail.pop_back();
  return !trail.empty();
}

std::vector<std::size_t> Scheduler::runnable() const {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < live; ++i)
    if (fibers[i].can_run()) out.push_back(i);
  return out;
}

void Scheduler::enter(std::size_t next) {
  current = next;
  swapcontext(&home, &fibers[next].context);
  current.reset();
}

void Scheduler::leave() {
  swapcontext(&fibers[*current].context, &home);
  if (abandoning) throw Abandoned{};
}

// A preemption, if there is one left and the schedule says so here.
void Scheduler::yield() {
  if (!current || abandoning || preemptions_left == 0) return;
  std::size_t others = 0;
  for (std::size_t i = 0; i < live; ++i)
    if (i != *current && fibers[i].can_run()) ++others;
  if (others == 0) return;
  if (choose(1 + others) == 0) return;
  --position;  // home reads the same choice, to know whom to run
  leave();
}

void Scheduler::sleep(std::function<bool()> ready) {
  if (ready()) return;
  fibers[*current].ready = std::move(ready);
  leave();
  fibers[*current].ready = nullptr;
}

void Scheduler::run(World& world) {
  live = world.bodies_.size();
  while (fibers.size() < live) fibers.emplace_back();
  for (std::size_t i = 0; i < live; ++i) {
    Fiber& fiber = fibers[i];
    fiber.body = std::move(world.bodies_[i].run);
    fiber.background = world.bodies_[i].background;
    fiber.finished = false;
    fiber.ready = nullptr;
    fiber.futex = nullptr;
    prepare(fiber);
  }
  world.bodies_.clear();

  std::size_t last = live;  // whom `yield` stopped; live: nobody
  while (!error) {
    std::vector<std::size_t> ready = runnable();
    if (ready.empty()) break;
    std::size_t next = 0;
    if (last < live && fibers[last].can_run()) {
      std::erase(ready, last);
      next = ready[choose(1 + ready.size()) - 1];
      --preemptions_left;
    } else {
      next = ready[choose(ready.size())];
    }
    enter(next);
    last = next;
  }
}

bool World::run() {
  Scheduler& s = scheduler();
  s.run(*this);
  bool stuck = false;
  s.abandoning = true;
  for (std::size_t i = 0; i < s.live; ++i) {
    if (s.fibers[i].finished) continue;
    stuck = stuck || !s.fibers[i].background;
    s.enter(i);
  }
  for (std::size_t i = 0; i < s.live; ++i) s.fibers[i].body = nullptr;
  s.abandoning = false;
  s.locks.clear();
  s.live = 0;
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
  return !stuck;
}

void World::fiber(std::function<void()> body) { bodies_.push_back({std::move(body), false}); }
void World::background(std::function<void()> body) { bodies_.push_back({std::move(body), true}); }

Exploration explore(const Limits& limits, const std::function<void(World&)>& scenario) {
  // On one CPU the pump never spins, so that the clock decides nothing.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0)
    return {.schedules = 0, .complete = false, .failure = "cannot stay on one CPU"};

  Scheduler& s = scheduler();
  s.trail.clear();
  Exploration out;
  do {
    if (out.schedules == limits.schedules) return out;
    ++out.schedules;
    s.position = 0;
    s.preemptions_left = limits.preemptions;
    try {
      World world;
      scenario(world);
    } catch (const std::exception& failure) {
      out.failure = failure.what();
      return out;
    }
  } while (s.next_schedule());
  out.complete = true;
  return out;
}

void require(bool holds, const char* what) {
  if (!holds) throw Broken(what);
}

void block_until(const std::function<bool()>& ready) {
  schedule_point();
  scheduler().sleep(ready);
}

}  // namespace interleave

// ---- what the segment calls, in place of the real ones ------------------------------------------

void schedule_point() { interleave::scheduler().yield(); }

void futex_wait(Shared<std::uint32_t>& word, std::uint32_t expected, std::int64_t) {
  schedule_point();
  if (word.load_relaxed() != expected) return;
  interleave::Scheduler& s = interleave::scheduler();
  s.fibers[*s.current].futex = &word;
  s.leave();
}

void futex_wake(Shared<std::uint32_t>& word) {
  schedule_point();
  interleave::Scheduler& s = interleave::scheduler();
  for (std::size_t i = 0; i < s.live; ++i)
    if (s.fibers[i].futex == &word) s.fibers[i].futex = nullptr;
}

FunctionLock::FunctionLock(pthread_mutex_t& mutex, std::int64_t) : mutex_(mutex), held_(true) {
  interleave::Scheduler& s = interleave::scheduler();
  if (!s.current) return;  // the scenario's own code, while no fiber runs
  interleave::block_until([&s, &mutex] { return !s.locks.contains(&mutex); });
  s.locks[&mutex] = *s.current;
}

// No schedule point here: a destructor must not throw, and the next access is one anyway.
FunctionLock::~FunctionLock() { interleave::scheduler().locks.erase(&mutex_); }

int FunctionLock::initialise(pthread_mutex_t&) { return 0; }

bool presence::begin(pthread_mutex_t&) { return true; }
void presence::end(pthread_mutex_t&) {}
bool presence::take_death(pthread_mutex_t&) { return false; }  // none dies in the middle of a step

}  // namespace gslice
