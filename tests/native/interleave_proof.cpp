// Small models with a bug planted in each: the explorer finds every one, and none in the sound
// twin.
#include <pthread.h>

#include <string>

#include "base/atomic.hpp"
#include "base/clock.hpp"
#include "base/futex.hpp"
#include "check.hpp"
#include "interleave.hpp"
#include "segment/lock.hpp"

using namespace gslice;
using interleave::Exploration;
using interleave::explore;
using interleave::World;

namespace {

// The doorbell once more, small, with one of the mistakes that its order of steps avoids.
struct Doorbell {
  enum class Bug { kNone, kLooksBeforeRinging, kReadsBellAfterWork, kRingerEndsSleep };

  Bug bug;
  Shared<std::uint32_t> bell, sleeping, work;

  void produce() {
    work.fetch_add(1);
    const bool slept_before = sleeping.load() == 1;
    bell.fetch_add(1);
    const bool sleeps =
        bug == Bug::kRingerEndsSleep ? sleeping.exchange(0) == 1 : sleeping.load() == 1;
    if (bug == Bug::kLooksBeforeRinging ? slept_before : sleeps) futex_wake(bell);
  }
  void consume(std::uint32_t expected) {
    for (;;) {
      std::uint32_t seen = bell.load();
      if (work.load() == expected) return;
      if (bug == Bug::kReadsBellAfterWork) seen = bell.load();
      sleeping.store(1);
      if (bell.load() == seen) futex_wait(bell, seen, kNever);
      sleeping.store(0);
    }
  }
};

Exploration ring_with(Doorbell::Bug bug) {
  return explore({.preemptions = 3}, [bug](World& world) {
    Doorbell doorbell{bug, {}, {}, {}};
    world.fiber([&] { doorbell.produce(); });
    world.fiber([&] { doorbell.produce(); });
    world.fiber([&] { doorbell.consume(2); });
    interleave::require(world.run(), "the consumer sleeps with work to do");
  });
}

}  // namespace

TEST(the_explorer_finds_lost_wake_ups) {
  const Exploration sound = ring_with(Doorbell::Bug::kNone);
  CHECK_EQ(sound.failure, "");
  CHECK(sound.complete);
  for (const auto bug : {Doorbell::Bug::kLooksBeforeRinging, Doorbell::Bug::kReadsBellAfterWork,
                         Doorbell::Bug::kRingerEndsSleep})
    CHECK_EQ(ring_with(bug).failure, "the consumer sleeps with work to do");
}

TEST(the_explorer_finds_a_double_claim) {
  const auto claim = [](bool compares) {
    return explore({.preemptions = 1}, [=](World& world) {
      Shared<std::uint32_t> owner;
      int claims = 0;
      for (std::uint32_t instance = 1; instance <= 2; ++instance)
        world.fiber([&, instance] {
          std::uint32_t seen = owner.load();
          if (seen != 0) return;
          if (compares && !owner.compare_exchange(seen, instance)) return;
          if (!compares) owner.store(instance);
          ++claims;
        });
      interleave::require(world.run(), "stuck");
      interleave::require(claims == 1, "claimed twice");
    });
  };
  CHECK_EQ(claim(true).failure, "");
  CHECK(claim(true).complete);
  CHECK_EQ(claim(false).failure, "claimed twice");
}

TEST(the_explorer_finds_a_deadlock_and_refuses_chance) {
  const Exploration deadlock = explore({.preemptions = 1}, [](World& world) {
    pthread_mutex_t first{}, second{};
    const auto both = [](pthread_mutex_t& a, pthread_mutex_t& b) {
      const FunctionLock outer(a, kNever);
      const FunctionLock inner(b, kNever);
    };
    world.fiber([&] { both(first, second); });
    world.fiber([&] { both(second, first); });
    interleave::require(world.run(), "stuck");
  });
  CHECK_EQ(deadlock.failure, "stuck");

  int runs = 0;
  const Exploration chance = explore({.preemptions = 2}, [&runs](World& world) {
    Shared<std::uint32_t> word;
    const int extra = runs++ % 2;
    world.fiber([&] { word.fetch_add(1); });
    world.fiber([&] { word.fetch_add(1); });
    if (extra == 1) world.fiber([&] { word.fetch_add(1); });
    world.run();
  });
  CHECK(chance.failure.find("not deterministic") != std::string::npos);
}
