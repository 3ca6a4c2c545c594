// Many threads on one segment, as processes would be: producers that cancel, instances that are
// swapped, killed and replaced, and answers that are taken. At the end every slot is FREE.
// ThreadSanitizer runs it too; the deaths are simulated by threads that stop between two calls.
#include <atomic>
#include <random>
#include <thread>

#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

constexpr int kProducers = 3;
constexpr int kRequests = 1500;  // of each producer
constexpr ClaimLimits kLimits{.rows_max = 8, .in_flight = 0};

// A front-end: leases, writes, queues, sometimes gives up, and takes its answers.
class Producer {
 public:
  Producer(Segment& segment, std::uint16_t index) : segment_(segment), index_(index) {}

  void run() {
    std::minstd_rand random(index_ + 1u);
    for (int sent = 0; sent < kRequests;) {
      const auto leased = segment_.lease(index_, 1);
      if (leased.ok()) {
        ++sent;
        send(leased.value(), random);
      }
      collect();
      if (!leased.ok()) std::this_thread::yield();
    }
    while (!waiting_.empty()) {
      collect();
      std::this_thread::yield();
    }
  }

  std::uint64_t answered = 0, cancelled = 0, wrong = 0;

 private:
  void send(Ticket ticket, std::minstd_rand& random) {
    fill(segment_, ticket,
         {.rows = 1 + static_cast<std::uint32_t>(random() % 3),
          .width = 1 + static_cast<std::int64_t>(random() % 2),
          .due_ns = now_ns(),
          .frontend = index_});
    const auto input = segment_.bytes_at(segment_.slot(ticket.slot).inputs[0].offset, 1);
    input[0] = static_cast<std::byte>(ticket.generation);
    const unsigned fate = random() % 16;
    if (fate == 0) {
      segment_.cancel(ticket);
      return;
    }
    if (!segment_.queue(ticket)) {
      ++wrong;
    } else if (fate == 1) {
      segment_.cancel(ticket);
      ++cancelled;
    } else {
      waiting_.push_back(ticket);
    }
  }

  void collect() {
    done_.clear();
    segment_.take_done(index_, done_);
    for (const Ticket& ticket : done_) {
      const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                      [&](const Ticket& t) { return same(t, ticket); });
      if (found == waiting_.end()) continue;  // cancelled when it was done already
      waiting_.erase(found);
      const SlotHeader& slot = segment_.slot(ticket.slot);
      const auto output = segment_.bytes_at(slot.output_offset, 1);
      const bool is_ok = slot.code == 0;
      if (is_ok && (output.empty() || output[0] != static_cast<std::byte>(ticket.generation)))
        ++wrong;
      ++answered;
      segment_.release(ticket);
    }
  }

  Segment& segment_;
  std::uint16_t index_;
  std::vector<Ticket> waiting_, done_;
};

// An instance's pump, which may die with what it has claimed.
class Worker {
 public:
  Worker(Segment& segment, std::uint16_t instance)
      : segment_(segment), instance_(instance), thread_([this] { run(); }) {}
  ~Worker() { stop(false); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // `dies`: at its next claim, between claim and completion.
  void stop(bool dies) {
    if (!thread_.joinable()) return;
    (dies ? dies_ : stops_).store(true);
    segment_.ring(instance_);
    thread_.join();
  }
  std::uint16_t instance() const { return instance_; }

 private:
  void run() {
    Claim claim;
    std::vector<std::uint16_t> wake;
    for (;;) {
      const std::uint32_t seen = segment_.doorbell(instance_);  // before looking at anything
      if (stops_.load()) return;
      segment_.claim(instance_, kLimits, now_ns(), claim, wake);
      if (dies_.load()) return;
      if (claim.slots.empty()) {
        segment_.wait(instance_, seen, claim.wait_until_ns);
        continue;
      }
      for (const Ticket& ticket : claim.slots) answer(ticket);
    }
  }

  void answer(Ticket ticket) {
    const SlotHeader& slot = segment_.slot(ticket.slot);
    Status reserved = Status::Ok();
    if (ticket.generation % 32 == 0)
      reserved = segment_.reserve_output(ticket, instance_, kPageBytes);
    const auto input = segment_.bytes_at(slot.inputs[0].offset, 1);
    const auto output = segment_.bytes_at(slot.output_offset, 1);
    output[0] = input[0];
    std::uint16_t frontend = kNobody;
    segment_.complete(ticket, instance_, reserved.code, reserved.message, &frontend);
  }

  Segment& segment_;
  std::uint16_t instance_;
  std::atomic<bool> stops_{false}, dies_{false};
  std::thread thread_;
};

struct Totals {
  std::uint64_t answered = 0, cancelled = 0, wrong = 0;
};

// Runs the producers while `supervise(running)` does what a supervisor may do.
template <typename Supervise>
Totals produce(Segment& segment, const Supervise& supervise) {
  std::vector<std::unique_ptr<Producer>> producers;
  std::vector<std::thread> threads;
  std::atomic<int> running{kProducers};
  for (std::uint16_t i = 0; i < kProducers; ++i) {
    segment.activate_frontend(i);
    producers.push_back(std::make_unique<Producer>(segment, i));
    threads.emplace_back([&, producer = producers.back().get()] {
      producer->run();
      running.fetch_sub(1);
    });
  }
  supervise(running);
  for (std::thread& thread : threads) thread.join();
  Totals totals;
  for (const auto& producer : producers) {
    totals.answered += producer->answered;
    totals.cancelled += producer->cancelled;
    totals.wrong += producer->wrong;
  }
  return totals;
}

std::unique_ptr<Worker> start_worker(Segment& segment) {
  const auto added = segment.add_instance();
  CHECK(added.ok());
  return std::make_unique<Worker>(segment, added.value());
}

std::shared_ptr<Segment> make_segment(std::uint32_t slots, std::uint32_t blocks) {
  auto created = Segment::create(spec_of({{kPageBytes, slots}}, blocks));
  CHECK(created.ok());
  return created.take();
}

// Cancelled slots are freed by their claimants, who have all stopped by now.
void check_all_free(Segment& segment) {
  Claim claim;
  std::vector<std::uint16_t> wake;
  const auto added = segment.add_instance();
  CHECK(added.ok());
  CHECK(segment.flip(kNobody, added.value()));
  segment.claim(added.value(), kLimits, now_ns(), claim, wake);
  CHECK(claim.slots.empty());
  check_idle(segment);
}

}  // namespace

TEST(two_instances_share_a_queue) {
  const auto segment = make_segment(24, 4);
  const auto a = start_worker(*segment), b = start_worker(*segment);
  CHECK(segment->flip(kNobody, a->instance()));
  CHECK(segment->flip(kNobody, b->instance()));
  const Totals totals = produce(*segment, [](const std::atomic<int>&) {});
  CHECK_EQ(totals.wrong, 0u);
  CHECK(totals.answered > kProducers * kRequests / 2);
  a->stop(false);
  b->stop(false);
  segment->remove_instance(a->instance());
  segment->remove_instance(b->instance());
  check_all_free(*segment);
}

TEST(swaps_lose_nothing) {
  const auto segment = make_segment(24, 4);
  std::unique_ptr<Worker> primary = start_worker(*segment);
  CHECK(segment->flip(kNobody, primary->instance()));
  int swaps = 0;
  const Totals totals = produce(*segment, [&](const std::atomic<int>& running) {
    while (running.load() > 0) {
      std::unique_ptr<Worker> shadow = start_worker(*segment);
      CHECK(segment->flip(primary->instance(), shadow->instance()));
      primary->stop(false);  // it finishes what it has claimed
      segment->remove_instance(primary->instance());
      primary = std::move(shadow);
      ++swaps;
    }
  });
  CHECK_EQ(totals.wrong, 0u);
  CHECK(swaps > 1);
  primary->stop(false);
  segment->remove_instance(primary->instance());
  check_all_free(*segment);
}

TEST(deaths_lose_nothing) {
  const auto segment = make_segment(24, 24);
  std::unique_ptr<Worker> primary = start_worker(*segment);
  CHECK(segment->flip(kNobody, primary->instance()));
  int deaths = 0;
  std::uint64_t requeued = 0, convicted = 0;
  const Totals totals = produce(*segment, [&](const std::atomic<int>& running) {
    while (running.load() > 0) {
      const std::uint16_t dead = primary->instance();
      primary->stop(true);
      segment->remove_instance(dead);
      std::vector<std::uint16_t> wake;
      const Requeued result = segment->requeue(dead, true, wake);
      requeued += result.requeued;
      convicted += result.poisoned + result.failed;
      std::unique_ptr<Worker> heir = start_worker(*segment);
      CHECK(segment->flip(kNobody, heir->instance()));
      segment->release_quarantine(dead);
      primary = std::move(heir);
      ++deaths;
    }
  });
  CHECK_EQ(totals.wrong, 0u);
  CHECK(deaths > 1);
  CHECK(requeued + convicted > 0);
  CHECK_EQ(outcomes(*segment, Outcome::kRequeued), requeued);
  primary->stop(false);
  segment->remove_instance(primary->instance());
  check_all_free(*segment);
}

TEST(deaths_beside_an_instance_that_lives_lose_nothing) {
  const auto segment = make_segment(24, 24);
  const auto survivor = start_worker(*segment);
  CHECK(segment->flip(kNobody, survivor->instance()));
  std::uint64_t requeued = 0;
  const Totals totals = produce(*segment, [&](const std::atomic<int>& running) {
    while (running.load() > 0) {
      const std::unique_ptr<Worker> mortal = start_worker(*segment);
      const std::uint16_t dead = mortal->instance();
      CHECK(segment->flip(kNobody, dead));
      mortal->stop(true);
      segment->remove_instance(dead);
      std::vector<std::uint16_t> wake;
      requeued += segment->requeue(dead, true, wake).requeued;
      segment->release_quarantine(dead);
    }
  });
  CHECK_EQ(totals.wrong, 0u);
  CHECK(requeued > 0);
  survivor->stop(false);
  segment->remove_instance(survivor->instance());
  check_all_free(*segment);
}

TEST(dead_frontends_are_reaped_under_load) {
  const auto segment = make_segment(24, 4);
  const auto worker = start_worker(*segment);
  CHECK(segment->flip(kNobody, worker->instance()));
  constexpr std::uint16_t kMortal = kProducers;
  const Totals totals = produce(*segment, [&](const std::atomic<int>& running) {
    while (running.load() > 0) {
      segment->activate_frontend(kMortal);
      for (int i = 0; i < 4; ++i) {  // leaves one LEASED, the rest wherever they have come to
        const auto leased = segment->lease(kMortal, 1);
        if (!leased.ok()) continue;
        fill(*segment, leased.value(), {.frontend = kMortal});
        if (i > 0) CHECK(segment->queue(leased.value()));
      }
      segment->reap_frontend(kMortal);
    }
  });
  CHECK_EQ(totals.wrong, 0u);
  worker->stop(false);
  segment->remove_instance(worker->instance());
  check_all_free(*segment);
}
