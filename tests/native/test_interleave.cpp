// The segment's protocols under every schedule of a few processes: no request is claimed twice,
// lost, or answered twice, and nobody sleeps with work to do. That the explorer would find such a
// bug is shown by interleave_proof.cpp.
#include <cstring>
#include <set>

#include "interleave.hpp"
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;
using interleave::Exploration;
using interleave::explore;
using interleave::World;

namespace {

constexpr ClaimLimits kLimits{.rows_max = 8, .in_flight = 0};

// The bytes of a fresh segment, put back before each schedule: making a new one would take longer
// than running it.
class Fresh {
 public:
  explicit Fresh(Segment& segment) : begin_(reinterpret_cast<std::byte*>(&segment.header())) {
    bytes_.assign(begin_, begin_ + segment.size_bytes());
  }
  void restore() { std::memcpy(begin_, bytes_.data(), bytes_.size()); }

 private:
  std::byte* begin_;
  std::vector<std::byte> bytes_;
};

using Scenario = std::function<void(World&, Fixture&)>;

void holds_always(const char* what, int preemptions, const SegmentSpec& spec,
                  const Scenario& scenario) {
  const Fixture made(spec);
  Fresh fresh(*made.segment);
  const Exploration done = explore({.preemptions = preemptions}, [&](World& world) {
    fresh.restore();
    Fixture fixture = made;
    scenario(world, fixture);
  });
  std::cout << what << ": " << done.schedules << " schedules" << std::endl;
  CHECK_EQ(done.failure, "");
  CHECK(done.complete);
  CHECK(done.schedules > 50);
}

SegmentSpec tiny(std::uint32_t slots = 2, std::uint32_t blocks = 1) {
  return spec_of({{kPage, slots}}, blocks);
}

// A second instance that may pull, beside the fixture's own.
std::uint16_t second_instance(Fixture& f) {
  const std::uint16_t added = f->add_instance().value();
  f->flip(kNobody, added);
  return added;
}

struct Pump {
  Segment& segment;
  std::uint16_t instance;
  std::vector<Ticket> claimed;
  std::vector<std::uint16_t> wake;
  std::size_t answered = 0;

  std::size_t claim() {
    Claim claim;
    segment.claim(instance, kLimits, now_ns(), claim, wake);
    claimed.insert(claimed.end(), claim.slots.begin(), claim.slots.end());
    return claim.slots.size();
  }
  bool complete(Ticket ticket) {
    std::uint16_t frontend = kNobody;
    const bool wakes = segment.complete(ticket, instance, Code::kOk, {}, &frontend);
    if (frontend != kNobody) ++answered;
    return wakes;
  }
};

// Whatever the processes left behind is served, and then nothing may be left.
std::size_t serve_the_rest(Fixture& f, std::uint16_t instance) {
  std::size_t told = f.done().size();
  Pump pump{*f, instance, {}, {}};
  while (pump.claim() > 0 || !pump.claimed.empty()) {
    for (const Ticket& ticket : pump.claimed) pump.complete(ticket);
    pump.claimed.clear();
    told += f.done().size();
  }
  for (std::uint32_t i = 0; i < f->slot_count(); ++i) f->release({i, word_of(*f, i).generation});
  return told;
}

// An eventfd: readable while its count is not 0.
struct EventFd {
  int count = 0;
  void write() {
    schedule_point();
    ++count;
  }
  void read() {
    interleave::block_until([this] { return count > 0; });
    count = 0;
  }
};

}  // namespace

TEST(claim_against_claim) {
  holds_always("claim/claim", 3, tiny(), [](World& world, Fixture& f) {
    Pump a{*f, f.instance, {}, {}}, b{*f, second_instance(f), {}, {}};
    submit(*f, {.width = 2});
    submit(*f, {.width = 3});  // another shape: each batch takes one
    world.fiber([&] { a.claim(); });
    world.fiber([&] { b.claim(); });
    CHECK(world.run());
    CHECK_EQ(a.claimed.size(), 1u);
    CHECK_EQ(b.claimed.size(), 1u);
    CHECK(a.claimed[0].slot != b.claimed[0].slot);
    for (const Ticket& ticket : a.claimed) a.complete(ticket);
    for (const Ticket& ticket : b.claimed) b.complete(ticket);
    CHECK_EQ(serve_the_rest(f, a.instance), 2u);
    check_idle(*f);
  });
}

TEST(claim_against_producers_and_cancel) {
  holds_always("claim/queue/cancel", 2, tiny(), [](World& world, Fixture& f) {
    Pump pump{*f, f.instance, {}, {}};
    const Ticket old = submit(*f);
    bool freed = false;
    world.fiber([&] {
      if (pump.claim() > 0)
        for (const Ticket& ticket : pump.claimed) pump.complete(ticket);
    });
    world.fiber([&] { freed = f->cancel(old); });
    world.fiber([&] { submit(*f); });
    CHECK(world.run());
    // The cancelled one has no answer, or was freed with it; the new one has exactly one.
    const std::size_t told = serve_the_rest(f, f.instance);
    CHECK_EQ(told, 1u);
    CHECK(freed || outcomes(*f, Outcome::kCancelled) == 1);
    check_idle(*f);
  });
}

TEST(slots_go_from_hand_to_hand) {
  holds_always("lease/lease", 2, tiny(1, 0), [](World& world, Fixture& f) {
    Pump pump{*f, f.instance, {}, {}};
    int turned_away = 0;
    const auto producer = [&] {
      auto leased = f->lease(kFrontend, 1);
      if (!leased.ok()) {
        ++turned_away;
        return;
      }
      fill(*f, leased.value(), {});
      CHECK(f->queue(leased.value()));
      f->cancel(leased.value());
    };
    world.fiber(producer);
    world.fiber(producer);
    world.fiber([&] {
      pump.claim();
      for (const Ticket& ticket : pump.claimed) pump.complete(ticket);
    });
    CHECK(world.run());
    CHECK(turned_away <= 1);
    serve_the_rest(f, f.instance);
    check_idle(*f);
  });
}

// Once `flip` has returned, the old instance has claimed whatever it will ever claim.
TEST(claim_against_flip) {
  holds_always("claim/flip", 3, tiny(), [](World& world, Fixture& f) {
    Pump old{*f, f.instance, {}, {}}, next{*f, f->add_instance().value(), {}, {}};
    std::set<std::uint32_t> claimed_at_flip;
    submit(*f, {.width = 2});
    submit(*f, {.width = 3});
    world.fiber([&] {
      old.claim();
      old.claim();
    });
    world.fiber([&] {
      CHECK(f->flip(old.instance, next.instance));
      for (std::uint32_t i = 0; i < f->slot_count(); ++i) {
        const SlotWord word = SlotWord::unpack(f->slot(i).word.load_relaxed());
        if (word.state == SlotState::kClaimed && word.owner == old.instance)
          claimed_at_flip.insert(i);
      }
      next.claim();
      next.claim();
    });
    CHECK(world.run());
    for (const Ticket& ticket : old.claimed) CHECK(claimed_at_flip.contains(ticket.slot));
    CHECK_EQ(old.claimed.size() + next.claimed.size(), 2u);
  });
}

// Its worker finishes, its client gives up, and the supervisor runs it again, all at once.
TEST(requeue_against_cancel_against_complete) {
  for (const bool cancels : {false, true}) {
    holds_always(cancels ? "requeue/complete/cancel" : "requeue/complete", cancels ? 2 : 3, tiny(),
                 [cancels](World& world, Fixture& f) {
                   const std::uint16_t next = second_instance(f);
                   Pump zombie{*f, f.instance, {}, {}};
                   const Ticket ticket = submit(*f);
                   zombie.claim();
                   Requeued requeued;
                   world.fiber([&] { zombie.complete(ticket); });
                   world.fiber([&] { requeued = f->requeue(zombie.instance, true, f.wake); });
                   if (cancels) world.fiber([&] { f->cancel(ticket); });
                   CHECK(world.run());
                   CHECK(zombie.answered + requeued.requeued + requeued.freed <= 1);
                   const std::size_t told = serve_the_rest(f, next);
                   CHECK(cancels ? told <= 1 : told == 1);
                   f->release_quarantine(zombie.instance);
                   check_idle(*f);
                 });
  }
}

TEST(requeue_against_claim_and_release) {
  holds_always("requeue/claim/release", 2, tiny(), [](World& world, Fixture& f) {
    const std::uint16_t next = second_instance(f);
    Pump dead{*f, f.instance, {}, {}}, heir{*f, next, {}, {}};
    const Ticket lost = submit(*f);
    dead.claim();
    const Ticket answered = submit(*f);
    dead.claim();
    dead.complete(answered);
    std::size_t told = 0;
    world.fiber([&] { f->requeue(dead.instance, true, f.wake); });
    world.fiber([&] {
      if (heir.claim() > 0) heir.complete(lost);
    });
    world.fiber([&] {
      for (const Ticket& ticket : f.done()) {
        ++told;
        f->release(ticket);
      }
    });
    CHECK(world.run());
    CHECK_EQ(told + serve_the_rest(f, next), 2u);
    f->release_quarantine(dead.instance);
    check_idle(*f);
  });
}

// The dead took the 1 of `armed` and did not write the eventfd; its front-end sleeps, or is just
// taking that answer. A supervisor that lives wakes it; one that dies before it writes must at
// least not silence the next answer.
TEST(requeue_against_a_sleeping_frontend) {
  for (const bool supervisor_lives : {true, false}) {
    holds_always(supervisor_lives ? "requeue/asleep" : "requeue/complete/armed", 2, tiny(),
                 [supervisor_lives](World& world, Fixture& f) {
                   Pump dead{*f, f.instance, {}, {}}, other{*f, second_instance(f), {}, {}};
                   submit(*f, {.width = 2});
                   submit(*f, {.width = 3});
                   dead.claim();
                   other.claim();
                   CHECK(f.done().empty());
                   CHECK(dead.complete(dead.claimed[0]));
                   EventFd eventfd;
                   std::size_t told = 0;
                   world.fiber([&] {
                     f->requeue(dead.instance, true, f.wake);
                     if (supervisor_lives && !f.wake.empty()) eventfd.write();
                   });
                   world.fiber([&] {
                     if (other.complete(other.claimed[0])) eventfd.write();
                   });
                   world.fiber([&] {
                     if (supervisor_lives) eventfd.read();
                     for (;;) {
                       for (const Ticket& ticket : f.done()) {
                         ++told;
                         f->release(ticket);
                       }
                       if (told == 2) return;
                       eventfd.read();
                     }
                   });
                   CHECK(world.run());
                   check_idle(*f);
                 });
  }
}

TEST(quarantine_ends_while_its_slot_is_released) {
  holds_always("release/release_quarantine", 3, tiny(), [](World& world, Fixture& f) {
    const Ticket ticket = submit(*f);
    f.claim();
    f->requeue(f.instance, false, f.wake);
    world.fiber([&] { f->release(ticket); });
    world.fiber([&] { f->release_quarantine(f.instance); });
    world.fiber([&] { f->rebuild_hints(); });
    CHECK(world.run());
    check_idle(*f);
  });
}

TEST(a_dead_frontend_against_a_claim) {
  holds_always("reap/claim", 3, tiny(), [](World& world, Fixture& f) {
    Pump pump{*f, f.instance, {}, {}};
    submit(*f);
    submit(*f, {.rows = 2});
    world.fiber([&] {
      pump.claim();
      for (const Ticket& ticket : pump.claimed) pump.complete(ticket);
    });
    world.fiber([&] { f->reap_frontend(kFrontend); });
    CHECK(world.run());
    CHECK(f.claim().empty());  // corrects the sum of queued rows, should it have drifted
    check_idle(*f);
  });
}

// The pump sleeps only with nothing to do, whoever queues and whenever.
TEST(no_ring_of_the_doorbell_is_lost) {
  holds_always("doorbell", 2, tiny(), [](World& world, Fixture& f) {
    Pump pump{*f, f.instance, {}, {}};
    world.fiber([&] { submit(*f); });
    world.fiber([&] { submit(*f, {.width = 3}); });
    world.fiber([&] {
      while (pump.claimed.size() < 2) {
        const std::uint32_t seen = f->doorbell(f.instance);
        if (pump.claim() == 0) f->wait(f.instance, seen, kNever);
      }
    });
    CHECK(world.run());
  });
}

TEST(no_request_is_stranded_by_a_flip) {
  holds_always("doorbell/flip", 2, tiny(), [](World& world, Fixture& f) {
    Pump old{*f, f.instance, {}, {}}, next{*f, f->add_instance().value(), {}, {}};
    const auto serve = [&f](Pump& pump) {
      for (;;) {
        const std::uint32_t seen = f->doorbell(pump.instance);
        if (pump.claim() == 0) f->wait(pump.instance, seen, kNever);
      }
    };
    world.background([&] { serve(old); });
    world.background([&] { serve(next); });
    world.fiber([&] { submit(*f); });
    world.fiber([&] { CHECK(f->flip(old.instance, next.instance)); });
    CHECK(world.run());
    CHECK_EQ(old.claimed.size() + next.claimed.size(), 1u);
  });
}

// The front-end sleeps on its eventfd only when every answer it waits for is still to come.
TEST(no_answer_is_left_with_a_sleeping_frontend) {
  holds_always("armed/done", 2, tiny(), [](World& world, Fixture& f) {
    Pump a{*f, f.instance, {}, {}}, b{*f, second_instance(f), {}, {}};
    submit(*f, {.width = 2});
    submit(*f, {.width = 3});
    a.claim();
    b.claim();
    EventFd eventfd;
    std::size_t told = 0;
    for (Pump* pump : {&a, &b})
      world.fiber([&eventfd, pump] {
        if (pump->complete(pump->claimed[0])) eventfd.write();
      });
    world.fiber([&] {
      for (;;) {
        for (const Ticket& ticket : f.done()) {
          ++told;
          f->release(ticket);
        }
        if (told == 2) return;
        eventfd.read();
      }
    });
    CHECK(world.run());
    check_idle(*f);
  });
}
