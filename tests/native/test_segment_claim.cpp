// What a claim takes: due order, shapes, limits, delay, expiry, and headers that lie.
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

std::vector<std::uint32_t> slots_of(const std::vector<Ticket>& tickets) {
  std::vector<std::uint32_t> slots;
  for (const Ticket& ticket : tickets) slots.push_back(ticket.slot);
  return slots;
}

using Slots = std::vector<std::uint32_t>;

}  // namespace

TEST(an_empty_queue_gives_nothing_and_never_ends) {
  Fixture f;
  CHECK(f.claim().empty());
  CHECK_EQ(f.claimed.wait_until_ns, kNever);
}

TEST(earliest_due_first) {
  Fixture f;
  const Ticket late = submit(*f, {.due_ns = 30}), early = submit(*f, {.due_ns = 10}),
               middle = submit(*f, {.due_ns = 20});
  CHECK(slots_of(f.claim()) == Slots{early.slot, middle.slot, late.slot});
  CHECK_EQ(f->header().instances[f.instance].last_claim_ns.load(), f->slot(early.slot).claimed_ns);
}

TEST(one_shape_a_batch) {
  Fixture f;
  const Ticket a = submit(*f, {.width = 2, .due_ns = 10}),
               b = submit(*f, {.width = 3, .due_ns = 5}),
               c = submit(*f, {.width = 2, .due_ns = 20}),
               d = submit(*f, {.width = 3, .due_ns = 30});
  CHECK(slots_of(f.claim()) == Slots{b.slot, d.slot});
  CHECK(slots_of(f.claim()) == Slots{a.slot, c.slot});
}

TEST(equal_keys_of_unequal_shapes_do_not_mix) {
  Fixture f;
  const Ticket a = submit(*f, {.width = 2, .due_ns = 1, .shape_key = 7}),
               b = submit(*f, {.width = 3, .due_ns = 2, .shape_key = 7}),
               c = submit(*f, {.width = 2, .due_ns = 3, .shape_key = 7});
  CHECK(slots_of(f.claim()) == Slots{a.slot, c.slot});
  CHECK(state_of(*f, b) == SlotState::kQueued);
  CHECK_EQ(f->header().queued_rows.load(), 1);
  CHECK(slots_of(f.claim()) == Slots{b.slot});

  const Ticket d = submit(*f, {.due_ns = 1}), e = lease(*f);
  fill(*f, e, {.due_ns = 2});
  f->slot(e.slot).inputs[0].dtype = DType::kInt32;  // as wide, but another type
  CHECK(f->queue(e));
  CHECK(slots_of(f.claim()) == Slots{d.slot});
}

TEST(rows_limits) {
  Fixture f;
  const Ticket a = submit(*f, {.rows = 3, .due_ns = 1}), b = submit(*f, {.rows = 3, .due_ns = 2}),
               c = submit(*f, {.rows = 2, .due_ns = 3});
  CHECK(slots_of(f.claim({.rows_max = 5, .in_flight = 0})) == Slots{a.slot, c.slot});
  CHECK(slots_of(f.claim({.rows_max = 5, .in_flight = 1})) == Slots{b.slot});
}

TEST(the_controller_tightens_but_never_widens) {
  Fixture f;
  for (std::int64_t due = 1; due <= 6; ++due) submit(*f, {.due_ns = due});
  f->header().batch_rows_max.store(2);
  CHECK_EQ(f.claim().size(), 2u);
  f->header().batch_rows_max.store(100);
  CHECK_EQ(f.claim({.rows_max = 3, .in_flight = 0}).size(), 3u);
  // A request larger than the controller's limit still runs, by itself.
  const Ticket large = submit(*f, {.rows = 4, .due_ns = 0});
  f->header().batch_rows_max.store(2);
  CHECK(slots_of(f.claim()) == Slots{large.slot});
}

TEST(not_batchable_runs_one_by_one) {
  Fixture f;
  const Ticket a = submit(*f, {.due_ns = 2}), b = submit(*f, {.due_ns = 1});
  f->header().batch_delay_ns.store(1'000'000'000);  // means nothing without batches
  CHECK(slots_of(f.claim({.rows_max = 0, .in_flight = 0})) == Slots{b.slot});
  CHECK(slots_of(f.claim({.rows_max = 0, .in_flight = 1})) == Slots{a.slot});
}

TEST(a_batch_that_is_not_full_can_be_left_to_grow) {
  Fixture f;
  const Ticket a = submit(*f);
  CHECK(f.claim({.rows_max = 2, .in_flight = 1, .full_only = true}).empty());
  CHECK_EQ(f.claimed.wait_until_ns, kNever);
  const Ticket b = submit(*f);
  CHECK(slots_of(f.claim({.rows_max = 2, .in_flight = 1, .full_only = true})) ==
        Slots{a.slot, b.slot});
}

TEST(delay_waits_for_a_full_batch) {
  Fixture f;
  constexpr std::int64_t kDelay = 1'000'000;
  f->header().batch_delay_ns.store(kDelay);
  const Ticket a = submit(*f);
  const std::int64_t queued = f->slot(a.slot).queued_ns;
  CHECK(f.claim({.rows_max = 2, .in_flight = 0}, queued).empty());
  CHECK_EQ(f.claimed.wait_until_ns, queued + kDelay);
  CHECK_EQ(f.claim({.rows_max = 2, .in_flight = 0}, queued + kDelay).size(), 1u);

  const Ticket b = submit(*f);
  submit(*f);
  CHECK_EQ(f.claim({.rows_max = 2, .in_flight = 0}, f->slot(b.slot).queued_ns).size(), 2u);

  // Full, because the next one does not fit.
  const Ticket c = submit(*f, {.rows = 2, .due_ns = 1});
  submit(*f, {.rows = 2, .due_ns = 2});
  CHECK_EQ(f.claim({.rows_max = 3, .in_flight = 0}, f->slot(c.slot).queued_ns).size(), 1u);
}

TEST(delay_ends_where_a_deadline_would_be_missed) {
  Fixture f;
  f->header().batch_delay_ns.store(1'000'000);
  f->header().batch_estimate_ns.store(300'000);
  const std::int64_t now = now_ns();
  submit(*f, {.deadline_ns = now + 500'000});
  CHECK(f.claim({.rows_max = 2, .in_flight = 0}, now).empty());
  CHECK_EQ(f.claimed.wait_until_ns, now + 200'000);
  CHECK_EQ(f.claim({.rows_max = 2, .in_flight = 0}, now + 200'000).size(), 1u);
}

TEST(the_expired_are_answered_without_running) {
  Fixture f;
  f.done();  // arms
  const std::int64_t now = now_ns();
  const Ticket expired = submit(*f, {.due_ns = 1, .deadline_ns = now});
  const Ticket alive = submit(*f, {.due_ns = 2, .deadline_ns = now + 1});
  CHECK(slots_of(f.claim({.rows_max = 8, .in_flight = 0}, now)) == Slots{alive.slot});
  CHECK(f->is_done(expired));
  CHECK_EQ(f->slot(expired.slot).code, static_cast<std::uint32_t>(Code::kDeadlineExceeded));
  CHECK_EQ(f.wake.size(), 1u);
  CHECK_EQ(outcomes(*f, Outcome::kExpired), 1u);
  CHECK_EQ(f.done().size(), 1u);
}

TEST(requests_of_an_inactive_frontend_are_dropped) {
  Fixture f;
  f->activate_frontend(1);
  submit(*f, {.frontend = 1});
  f->header().frontends[1].active.store(0);
  CHECK(f.claim().empty());
  check_idle(*f);
}

TEST(who_may_not_pull_claims_nothing) {
  Fixture f;
  submit(*f);
  CHECK(f->flip(f.instance, kNobody));
  CHECK(f.claim().empty());
  CHECK_EQ(f.claimed.wait_until_ns, kNever);
}

TEST(lying_hints_are_repaired) {
  Fixture f;
  const Ticket hidden = submit(*f);
  f->header().queued[0].store(0);  // its producer died before the hint
  CHECK(slots_of(f.claim()) == Slots{hidden.slot});
  f->header().queued[0].store(~std::uint64_t{0});  // says everything is queued
  f->header().queued_rows.store(17);
  CHECK(f.claim().empty());
  CHECK_EQ(f->header().queued[0].load() & 0xff, 0u);
  CHECK_EQ(f->header().queued_rows.load(), 0);
}

TEST(a_full_queue_is_claimed_in_batches) {
  Fixture f(spec_of({{kPageBytes, kMaxSlots}}));
  for (std::size_t i = 0; i < kMaxSlots; ++i)
    submit(*f, {.due_ns = static_cast<std::int64_t>(kMaxSlots - i)});
  std::int64_t last_due = 0;
  std::size_t served = 0;
  while (served < kMaxSlots) {
    CHECK_EQ(f.claim({.rows_max = 64, .in_flight = 0}).size(), 64u);
    for (const Ticket& ticket : f.claimed.slots) {
      CHECK(f->slot(ticket.slot).due_ns > last_due);
      last_due = f->slot(ticket.slot).due_ns;
      f.complete(ticket);
      ++served;
    }
  }
  CHECK_EQ(f.done().size(), kMaxSlots);
}

TEST(outputs_beyond_the_tail_come_from_blocks) {
  Fixture f(spec_of({{kPageBytes, 4}}, 2));
  const Ticket a = submit(*f, {.due_ns = 1}), b = submit(*f, {.due_ns = 2}),
               c = submit(*f, {.due_ns = 3});
  CHECK(!f->reserve_output(a, f.instance, 1).ok());  // not claimed yet
  f.claim();
  const std::uint64_t tail_bytes = f->slot(a.slot).output_bytes;
  CHECK(f->reserve_output(a, f.instance, tail_bytes).ok());
  CHECK_EQ(f->blocks_in_use(), 0u);
  CHECK(f->reserve_output(a, f.instance, kPageBytes).ok());
  CHECK(f->reserve_output(a, f.instance, kPageBytes).ok());  // has it already
  CHECK_EQ(f->blocks_in_use(), 1u);
  CHECK(f->bytes_at(f->slot(a.slot).output_offset, kPageBytes).size() == kPageBytes);
  CHECK(f->reserve_output(b, f.instance, kPageBytes).ok());
  CHECK(f->slot(a.slot).output_offset != f->slot(b.slot).output_offset);
  CHECK(f->reserve_output(c, f.instance, kPageBytes).code == Code::kResourceExhausted);
  CHECK(f->reserve_output(c, f.instance, kPageBytes + 1).code == Code::kFailedPrecondition);
  CHECK(!f->reserve_output(c, 5, 1).ok());  // another's
  f.complete(a);
  f->release(a);
  CHECK_EQ(f->blocks_in_use(), 1u);
  CHECK(f->reserve_output(c, f.instance, kPageBytes).ok());
  CHECK(!f->cancel(b));
  f.complete(b);
  f.complete(c);
  f->cancel(c);
  check_idle(*f);
}

// Its front-end died after the lease and before the header was reset, so the slot still names the
// block of its last request.
TEST(an_old_reference_frees_nobodys_block) {
  Fixture f(spec_of({{kPageBytes, 4}}, 1));
  const Ticket old = submit(*f);
  f.claim();
  CHECK(f->reserve_output(old, f.instance, kPageBytes).ok());
  const std::uint64_t reference = f->slot(old.slot).output_block;
  f.complete(old);
  f->release(old);
  const Ticket user = submit(*f);
  f.claim();
  CHECK(f->reserve_output(user, f.instance, kPageBytes).ok());
  const Ticket interrupted = lease(*f);
  f->slot(interrupted.slot).output_block = reference;
  f->cancel(interrupted);
  CHECK_EQ(f->blocks_in_use(), 1u);
}
