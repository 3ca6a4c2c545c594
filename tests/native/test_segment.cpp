// Leases, answers, doorbells, the lock: everything but the claim's choice and the recovery.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <csignal>
#include <set>
#include <thread>

#include "segment/lock.hpp"
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

TEST(life_of_a_request) {
  Fixture f;
  const Ticket ticket = lease(*f);
  CHECK(state_of(*f, ticket) == SlotState::kLeased);
  fill(*f, ticket, {.rows = 3});
  CHECK(f.claim().empty());  // not yet queued
  CHECK(f->queue(ticket));
  CHECK(!f->queue(ticket));
  CHECK_EQ(f->header().queued_rows.load(), 3);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK(same(f.claimed.slots[0], ticket));
  CHECK_EQ(f->header().queued_rows.load(), 0);
  CHECK_EQ(word_of(*f, ticket.slot).owner, f.instance);
  CHECK(!f->is_done(ticket));
  CHECK_EQ(f.complete(ticket), kFrontend);
  CHECK(f->is_done(ticket));
  CHECK_EQ(f->slot(ticket.slot).code, 0u);
  const auto done = f.done();
  CHECK_EQ(done.size(), 1u);
  CHECK(same(done[0], ticket));
  CHECK(f.done().empty());
  f->release(ticket);
  check_idle(*f);
}

TEST(stale_tickets_do_nothing) {
  Fixture f(spec_of({{kPage, 1}}));
  const Ticket old = submit(*f);
  f.claim();
  f.complete(old);
  f->release(old);
  const Ticket fresh = lease(*f);
  CHECK_EQ(fresh.slot, old.slot);
  CHECK(fresh.generation != old.generation);
  CHECK(!f->queue(old));
  CHECK(f->cancel(old));
  f->release(old);
  CHECK(!f->is_done(old));
  CHECK_EQ(f.complete(old), kNobody);
  CHECK(state_of(*f, fresh) == SlotState::kLeased);
  fill(*f, fresh, {});
  CHECK(f->queue(fresh));
  f.claim();
  CHECK_EQ(f.complete(old), kNobody);  // a late completion cannot answer the next request
  CHECK_EQ(f.complete(fresh), kFrontend);
  f->release(fresh);
  check_idle(*f);
}

TEST(impossible_tickets_do_nothing) {
  Fixture f;
  for (const std::uint32_t slot : {8u, 1023u, ~0u}) {
    const Ticket ticket{slot, 0};
    CHECK(!f->queue(ticket));
    CHECK(f->cancel(ticket));
    f->release(ticket);
    CHECK(!f->is_done(ticket));
    CHECK_EQ(f.complete(ticket), kNobody);
    CHECK(!f->reserve_output(ticket, f.instance, 1).ok());
  }
  CHECK(!f->lease(kMaxFrontends, 1).ok());
  std::vector<Ticket> out;
  f->take_done(kMaxFrontends, out);
  f->claim(kMaxInstances, {.rows_max = 8, .in_flight = 0}, now_ns(), f.claimed, f.wake);
  CHECK(f.claimed.slots.empty());
  CHECK_EQ(f->reap_frontend(kMaxFrontends), 0u);
  CHECK_EQ(f->release_quarantine(kMaxInstances), 0u);
  f->remove_instance(kMaxInstances);
  f->ring(kMaxInstances);
  f->wait(kMaxInstances, 0, kNever);
  check_idle(*f);
}

TEST(a_full_segment_turns_away) {
  Fixture f;
  std::vector<Ticket> held;
  for (int i = 0; i < 8; ++i) held.push_back(lease(*f));
  std::set<std::uint32_t> distinct;
  for (const Ticket& ticket : held) distinct.insert(ticket.slot);
  CHECK_EQ(distinct.size(), 8u);
  const auto full = f->lease(kFrontend, 1);
  CHECK(full.status().code == Code::kResourceExhausted);
  f->cancel(held.back());
  CHECK(f->lease(kFrontend, 1).ok());
}

TEST(classes_smallest_first_then_larger) {
  Fixture f(spec_of({{kPage, 1}, {2 * kPage, 1}, {4 * kPage, 1}}));
  CHECK_EQ(f->slot(lease(*f, kFrontend, 2 * kPage).slot).payload_bytes, 2 * kPage);
  CHECK_EQ(f->slot(lease(*f, kFrontend, 1).slot).payload_bytes, kPage);
  CHECK_EQ(f->slot(lease(*f, kFrontend, 1).slot).payload_bytes, 4 * kPage);
  CHECK(f->lease(kFrontend, 1).status().code == Code::kResourceExhausted);
  CHECK(f->lease(kFrontend, 4 * kPage + 1).status().code == Code::kResourceExhausted);
  CHECK_EQ(f->largest_payload_bytes(), 4 * kPage);
}

TEST(a_large_request_never_gets_a_small_slot) {
  Fixture f(spec_of({{kPage, 70}, {2 * kPage, 70}}));
  for (int i = 0; i < 70; ++i) {
    const Ticket ticket = lease(*f, kFrontend, kPage + 1);
    CHECK_EQ(f->slot(ticket.slot).payload_bytes, 2 * kPage);
  }
  CHECK(f->lease(kFrontend, kPage + 1).status().code == Code::kResourceExhausted);
  for (int i = 0; i < 70; ++i) lease(*f);
  CHECK_EQ(in_state(*f, SlotState::kLeased), 140u);
}

TEST(lease_resets_the_header) {
  Fixture f(spec_of({{kPage, 1}}));
  const Ticket first = submit(*f, {.rows = 2, .due_ns = 5});
  f.claim();
  f.complete(first, Code::kInternal, "bad");
  f->release(first);
  const SlotHeader& slot = f->slot(lease(*f).slot);
  CHECK_EQ(slot.rows, 0u);
  CHECK_EQ(slot.due_ns, kNever);
  CHECK_EQ(slot.code, 0u);
  CHECK_EQ(slot.message_bytes, 0u);
  CHECK_EQ(slot.input_count, 0u);
  CHECK_EQ(slot.output_offset, slot.payload_offset);
  CHECK_EQ(slot.output_bytes, slot.payload_bytes);
  CHECK(slot.leased_ns > 0);
  CHECK_EQ(slot.claimed_ns, 0);
}

TEST(lease_finds_slots_that_no_hint_shows) {
  Fixture f;
  f->header().free[0].store(0);
  lease(*f);
  f->header().free[0].store(~std::uint64_t{0});  // and hints that lie the other way
  for (int i = 0; i < 7; ++i) lease(*f);
  CHECK(f->lease(kFrontend, 1).status().code == Code::kResourceExhausted);
}

TEST(only_an_active_frontend_leases) {
  Fixture f;
  CHECK(f->lease(1, 1).status().code == Code::kUnavailable);
  f->activate_frontend(1);
  CHECK(f->lease(1, 1).ok());
}

TEST(cancel_in_every_state) {
  Fixture f;
  CHECK(f->cancel(lease(*f)));
  CHECK_EQ(outcomes(*f, Outcome::kCancelled), 0u);  // it was never admitted
  check_idle(*f);

  CHECK(f->cancel(submit(*f)));
  CHECK_EQ(outcomes(*f, Outcome::kCancelled), 1u);
  CHECK(f.claim().empty());
  check_idle(*f);

  const Ticket claimed = submit(*f);
  f.claim();
  CHECK(!f->cancel(claimed));
  CHECK(!f->cancel(claimed));
  CHECK_EQ(outcomes(*f, Outcome::kCancelled), 2u);
  CHECK_EQ(f.complete(claimed), kNobody);
  CHECK(f.done().empty());
  check_idle(*f);

  const Ticket done = submit(*f);
  f.claim();
  f.complete(done);
  CHECK(f->cancel(done));
  CHECK_EQ(outcomes(*f, Outcome::kCancelled), 2u);  // it was already counted when it finished
  CHECK(f.done().empty());
  check_idle(*f);
}

TEST(only_the_claimant_completes) {
  Fixture f;
  const Ticket ticket = submit(*f);
  std::uint16_t wake = 0;
  CHECK(!f->complete(ticket, f.instance, Code::kOk, {}, &wake));  // still QUEUED
  f.claim();
  f->complete(ticket, 5, Code::kOk, {}, &wake);
  CHECK_EQ(wake, kNobody);
  CHECK(state_of(*f, ticket) == SlotState::kClaimed);
}

TEST(messages_are_cut_at_a_character) {
  Fixture f;
  const Ticket ticket = submit(*f);
  f.claim();
  std::string message(kMessageBytes - 1, 'a');
  message += "\xc3\xa9";  // two bytes, the second beyond the room
  f.complete(ticket, Code::kInternal, message);
  const SlotHeader& slot = f->slot(ticket.slot);
  CHECK_EQ(slot.message_bytes, kMessageBytes - 1);
  CHECK_EQ(slot.code, 13u);

  const Ticket fits = submit(*f);
  f.claim();
  f.complete(fits, Code::kInternal, std::string(kMessageBytes, 'b'));
  CHECK_EQ(f->slot(fits.slot).message_bytes, kMessageBytes);
}

TEST(only_an_armed_frontend_is_woken) {
  Fixture f;
  const Ticket a = submit(*f), b = submit(*f);
  f.claim();
  f.complete(a);
  CHECK_EQ(f.wake.size(), 1u);  // armed since it was activated
  f.complete(b);
  CHECK_EQ(f.wake.size(), 1u);  // woken once, until it looks again
  CHECK_EQ(f.done().size(), 2u);
  const Ticket c = submit(*f);
  f.claim();
  f.complete(c);
  CHECK_EQ(f.wake.size(), 2u);
  CHECK_EQ(f.done().size(), 1u);
}

TEST(done_order_is_by_index_and_each_frontend_gets_its_own) {
  Fixture f;
  f->activate_frontend(1);
  const Ticket a = submit(*f), b = submit(*f, {.frontend = 1}), c = submit(*f);
  f.claim();
  f.complete(c);
  f.complete(b);
  f.complete(a);
  const auto zero = f.done(0), one = f.done(1);
  CHECK_EQ(zero.size(), 2u);
  CHECK(same(zero[0], a) && same(zero[1], c));
  CHECK_EQ(one.size(), 1u);
  CHECK(same(one[0], b));
}

TEST(done_is_told_once_though_hints_are_rebuilt) {
  Fixture f;
  const Ticket told = submit(*f), untold = submit(*f);
  f.claim();
  f.complete(told);
  CHECK_EQ(f.done().size(), 1u);
  f.complete(untold);
  for (auto& hints : f->header().frontends[kFrontend].done) hints.store(0);  // its pump died
  CHECK(f.done().empty());
  f->rebuild_hints();
  const auto found = f.done();
  CHECK_EQ(found.size(), 1u);
  CHECK(same(found[0], untold));
}

TEST(doorbell_rings_those_who_may_pull) {
  Fixture f;
  const auto other = f->add_instance();
  CHECK(other.ok());
  const std::uint32_t before = f->doorbell(f.instance);
  submit(*f);
  CHECK(f->doorbell(f.instance) != before);
  CHECK_EQ(f->doorbell(other.value()), 0u);
  CHECK(f->flip(f.instance, other.value()));
  CHECK_EQ(f->doorbell(other.value()), 1u);
  CHECK(!f->may_pull(f.instance));
  CHECK(f->may_pull(other.value()));
  CHECK(f.claim().empty());
  f->claim(other.value(), {.rows_max = 8, .in_flight = 0}, now_ns(), f.claimed, f.wake);
  CHECK_EQ(f.claimed.slots.size(), 1u);
}

TEST(wait_returns_at_its_time_or_when_rung) {
  Fixture f;
  const std::uint32_t seen = f->doorbell(f.instance);
  const std::int64_t until = now_ns() + 2'000'000;
  f->wait(f.instance, seen, until);
  CHECK(now_ns() >= until);
  CHECK_EQ(f->header().instances[f.instance].sleeping.load(), 0u);
  f->ring(f.instance);
  f->wait(f.instance, seen, kNever);  // rung already: no sleep
  std::thread pump([&] { f->wait(f.instance, f->doorbell(f.instance), kNever); });
  while (f->header().instances[f.instance].sleeping.load() == 0) std::this_thread::yield();
  f->ring(f.instance);
  pump.join();
}

TEST(instances_fill_their_table) {
  Fixture f;
  for (std::size_t i = 1; i < kMaxInstances; ++i) CHECK(f->add_instance().ok());
  CHECK(f->add_instance().status().code == Code::kResourceExhausted);
  f->remove_instance(3);
  const auto again = f->add_instance();
  CHECK(again.ok());
  CHECK_EQ(again.value(), 3);
}

// A worker that dies inside its claim leaves the lock to the next one.
TEST(the_lock_survives_its_holder) {
  Fixture f;
  std::array<int, 2> locked{};
  CHECK(pipe(locked.data()) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const FunctionLock lock(f->header().lock, 1'000'000'000);
    const char held = lock.held() ? 'y' : 'n';
    if (write(locked[1], &held, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char held = 0;
  CHECK(read(locked[0], &held, 1) == 1);
  CHECK_EQ(held, 'y');
  const Ticket ticket = submit(*f);
  const std::int64_t now = now_ns();
  CHECK(f.claim({.rows_max = 8, .in_flight = 0}, now).empty());  // waits no longer than it must
  CHECK_EQ(f.claimed.wait_until_ns, now);
  CHECK(!f->flip(f.instance, kNobody));  // nor does the supervisor
  CHECK(f->may_pull(f.instance));
  CHECK(kill(child, SIGKILL) == 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK_EQ(f.complete(ticket), kFrontend);
  CHECK(f->flip(f.instance, kNobody));
  close(locked[0]);
  close(locked[1]);
}

TEST(histogram_bins_are_narrow_and_ascend) {
  CHECK_EQ(histogram_bin(-5), 0u);
  CHECK_EQ(histogram_bin(0), 0u);
  CHECK_EQ(histogram_bin(999), 0u);
  CHECK_EQ(histogram_bin(1000), 1u);
  CHECK_EQ(histogram_bin(15'999), 15u);
  CHECK_EQ(histogram_bin(16'000), 16u);
  CHECK_EQ(histogram_bin(kNever), kHistogramBins - 1);
  for (std::size_t bin = 0; bin < kHistogramBins; ++bin) {
    const double lower = histogram_bin_lower_us(bin), upper = histogram_bin_lower_us(bin + 1);
    CHECK(lower < upper);
    CHECK(bin < kHistogramSteps || upper / lower <= 1.0 + 1.0 / kHistogramSteps);
    const auto first_ns = static_cast<std::int64_t>(std::ceil(lower)) * 1000;
    CHECK_EQ(histogram_bin(first_ns), bin);
    CHECK_EQ(histogram_bin(static_cast<std::int64_t>(std::ceil(upper)) * 1000 - 1), bin);
  }
  CHECK(histogram_bin_lower_us(kHistogramBins) > 4 * 3600e6);
  Histogram histogram;
  histogram_add(histogram, 2'500);
  histogram_add(histogram, -1);
  CHECK_EQ(histogram.bins[2].load(), 1u);
  CHECK_EQ(histogram.bins[0].load(), 1u);
  CHECK_EQ(histogram.count.load(), 2u);
  CHECK_EQ(histogram.sum_ns.load(), 2'500u);
}
