// Deaths: of front-ends, of instances, of the supervisor half-way; quarantine and poison.
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// The instance's successor takes over, as the supervisor would arrange it.
std::uint16_t replace(Fixture& f) {
  f->remove_instance(f.instance);
  const auto next = f->add_instance();
  CHECK(next.ok());
  CHECK(f->flip(f.instance, next.value()));
  return next.value();
}

}  // namespace

TEST(a_dead_frontend_gives_everything_back) {
  Fixture f;
  f->activate_frontend(1);
  const Ticket claimed = submit(*f, {.due_ns = 1}), done = submit(*f, {.due_ns = 2}),
               other = submit(*f, {.due_ns = 3, .frontend = 1});
  f.claim({.rows_max = 2, .in_flight = 0});
  f.complete(done);
  const Ticket leased = lease(*f), queued = submit(*f);
  const Ticket block = submit(*f, {.due_ns = 4});
  CHECK_EQ(f->reap_frontend(kFrontend), 5u);
  CHECK_EQ(f->reap_frontend(kFrontend), 0u);
  CHECK_EQ(in_state(*f, SlotState::kFree), 6u);
  for (const Ticket& ticket : {done, leased, queued, block})
    CHECK(state_of(*f, ticket) == SlotState::kFree);
  CHECK(state_of(*f, other) == SlotState::kQueued);
  CHECK_EQ(f.complete(claimed), kNobody);
  CHECK(!f->lease(kFrontend, 1).ok());
  CHECK_EQ(f.claim().size(), 1u);
  f.complete(other);
  f->release(other);
  check_idle(*f);
}

TEST(a_dead_frontends_blocks_come_back) {
  Fixture f;
  const Ticket ticket = submit(*f);
  f.claim();
  CHECK(f->reserve_output(ticket, f.instance, kPageBytes).ok());
  f.complete(ticket);
  CHECK_EQ(f->reap_frontend(kFrontend), 1u);
  check_idle(*f);
}

TEST(a_dead_instances_request_runs_again_alone) {
  Fixture f;
  const std::uint16_t dead = f.instance;
  const Ticket a = submit(*f, {.due_ns = 5}), b = submit(*f, {.due_ns = 6});
  f.claim();
  const Ticket late = submit(*f, {.due_ns = 7});
  const std::uint64_t tail = f->slot(a.slot).output_offset;
  const Requeued result = f->requeue(dead, true, f.wake);
  CHECK_EQ(result.requeued, 2u);
  CHECK_EQ(result.poisoned + result.freed + result.failed, 0u);
  CHECK_EQ(outcomes(*f, Outcome::kRequeued), 2u);
  CHECK(f->slot(a.slot).output_offset != tail);  // a late copy of the dead goes elsewhere
  CHECK_EQ(f->slot(a.slot).output_bytes, kPageBytes);

  f.instance = replace(f);
  CHECK(f.instance != dead);                                // its index still means something
  CHECK(f.claim({.rows_max = 8, .in_flight = 1}).empty());  // alone means alone
  CHECK_EQ(f.claim().size(), 1u);
  CHECK(same(f.claimed.slots[0], a));
  CHECK(f.claim({.rows_max = 8, .in_flight = 1}).empty());  // nor does anybody join it
  f.complete(a);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK(same(f.claimed.slots[0], b));
  f.complete(b);
  CHECK_EQ(f.claim({.rows_max = 8, .in_flight = 1}).size(), 1u);
  f.complete(late);
  CHECK_EQ(f.done().size(), 3u);
  for (const Ticket& ticket : {a, b, late}) f->release(ticket);

  CHECK_EQ(in_state(*f, SlotState::kQuarantined), 2u);  // the tails; the fresh blocks are free
  CHECK_EQ(f->blocks_in_use(), 0u);
  CHECK_EQ(f->release_quarantine(dead), 2u);
  check_idle(*f);
  CHECK_EQ(f->add_instance().value(), dead);
}

TEST(a_device_proven_gone_needs_no_quarantine) {
  Fixture f(spec_of({{kPageBytes, 8}}, 0));  // and no blocks
  const Ticket a = submit(*f);
  f.claim();
  const std::uint64_t tail = f->slot(a.slot).output_offset;
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).requeued, 1u);
  CHECK_EQ(f->slot(a.slot).output_offset, tail);
  const std::uint16_t dead = f.instance;
  f.instance = replace(f);
  CHECK_EQ(f.instance, dead);
  CHECK_EQ(f.claim().size(), 1u);
  f.complete(a);
  f->release(a);
  check_idle(*f);
}

TEST(a_device_gone_keeps_the_block_it_wrote_to) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  CHECK(f->reserve_output(a, f.instance, kPageBytes).ok());
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).requeued, 1u);
  f.instance = replace(f);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK(f->reserve_output(a, f.instance, kPageBytes).ok());
  CHECK_EQ(f->blocks_in_use(), 1u);
  f.complete(a);
  f->release(a);
  check_idle(*f);
}

TEST(a_death_of_what_others_did_convicts_nobody) {
  Fixture f;
  f.done();
  const Ticket a = submit(*f);
  const Ticket b = submit(*f);
  for (int death = 0; death < 3; ++death) {
    CHECK_EQ(f.claim().size(), 2u);  // together, as ever
    CHECK_EQ(f->requeue(f.instance, true, f.wake, true, false).requeued, 2u);
    f.instance = replace(f);
  }
  f.claim();
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).requeued, 2u);
  f.instance = replace(f);
  CHECK_EQ(f.claim().size(), 1u);  // alone, after a death of its own
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true, false).requeued, 1u);
  f.instance = replace(f);
  CHECK_EQ(f.claim().size(), 1u);  // and still alone
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).poisoned, 1u);
  f.instance = replace(f);
  f.claim();
  CHECK_EQ(f->requeue(f.instance, true, f.wake, true).poisoned, 1u);
  f->release(a);
  f->release(b);
  check_idle(*f);
}

TEST(a_second_death_alone_convicts) {
  Fixture f;
  f.done();
  const Ticket a = submit(*f);
  f.claim();
  const std::uint16_t first = f.instance;
  CHECK_EQ(f->requeue(first, true, f.wake).requeued, 1u);
  CHECK(f.wake.empty());
  f.instance = replace(f);
  f.claim();
  const Requeued result = f->requeue(f.instance, true, f.wake);
  CHECK_EQ(result.poisoned, 1u);
  CHECK_EQ(result.requeued, 0u);
  CHECK_EQ(outcomes(*f, Outcome::kPoisoned), 1u);
  CHECK_EQ(f.wake.size(), 1u);
  CHECK(f->is_done(a));
  CHECK_EQ(f->slot(a.slot).code, static_cast<std::uint32_t>(Code::kInternal));
  CHECK_EQ(f.done().size(), 1u);
  f->release(a);
  CHECK(state_of(*f, a) == SlotState::kQuarantined);
  CHECK_EQ(f->blocks_in_use(), 1u);  // the second one's block
  CHECK_EQ(f->release_quarantine(f.instance), 1u);
  CHECK_EQ(f->release_quarantine(first), 1u);
  check_idle(*f);
}

TEST(a_request_with_side_effects_runs_once) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  CHECK_EQ(f->requeue(f.instance, false, f.wake).poisoned, 1u);
  CHECK_EQ(f->slot(a.slot).code, static_cast<std::uint32_t>(Code::kUnavailable));
  f->release(a);
  CHECK_EQ(f->release_quarantine(f.instance), 1u);
  check_idle(*f);
}

TEST(the_cancelled_do_not_run_again) {
  Fixture f;
  const Ticket a = submit(*f), b = submit(*f);
  f.claim();
  CHECK(f->reserve_output(b, f.instance, kPageBytes).ok());
  f->cancel(a);
  f->cancel(b);
  CHECK_EQ(f->requeue(f.instance, true, f.wake).freed, 2u);
  CHECK_EQ(in_state(*f, SlotState::kQuarantined), 2u);
  CHECK_EQ(f->blocks_in_use(), 1u);
  CHECK_EQ(f->release_quarantine(f.instance), 3u);
  check_idle(*f);
}

TEST(a_cancel_between_the_runs_frees_the_fresh_block) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  f->requeue(f.instance, true, f.wake);
  CHECK_EQ(f->blocks_in_use(), 1u);
  CHECK(f->cancel(a));
  CHECK_EQ(f->blocks_in_use(), 0u);
  CHECK(state_of(*f, a) == SlotState::kQuarantined);
  CHECK_EQ(f->release_quarantine(f.instance), 1u);
  check_idle(*f);
}

TEST(no_block_means_an_answer_now) {
  Fixture f(spec_of({{kPageBytes, 8}}, 1));
  const Ticket a = submit(*f, {.due_ns = 1}), b = submit(*f, {.due_ns = 2});
  f.claim();
  const Requeued result = f->requeue(f.instance, true, f.wake);
  CHECK_EQ(result.requeued, 1u);
  CHECK_EQ(result.failed, 1u);
  const bool first_failed = f->is_done(a);
  const Ticket failed = first_failed ? a : b;
  CHECK(f->is_done(failed));
  CHECK_EQ(f->slot(failed.slot).code, static_cast<std::uint32_t>(Code::kUnavailable));
  CHECK_EQ(outcomes(*f, Outcome::kFailed), 1u);
}

TEST(quarantine_may_end_before_the_request_does) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  f->requeue(f.instance, true, f.wake);
  CHECK_EQ(f->release_quarantine(f.instance), 0u);  // nothing lies idle yet
  const std::uint16_t dead = f.instance;
  f.instance = replace(f);
  CHECK_EQ(f.instance, dead);
  f.claim();
  f.complete(a);
  f->release(a);
  check_idle(*f);  // went to FREE at once
}

TEST(a_zombie_answers_nothing) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  f->requeue(f.instance, true, f.wake);
  CHECK_EQ(f.complete(a, Code::kInternal, "late"), kNobody);
  CHECK(!f->reserve_output(a, f.instance, 1).ok());
  CHECK(state_of(*f, a) == SlotState::kQueued);
  CHECK_EQ(f->slot(a.slot).code, 0u);
}

TEST(an_answer_the_dead_did_not_announce_is_told) {
  Fixture f;
  f.done();
  const Ticket a = submit(*f);
  f.claim();
  f.complete(a);  // takes the 1 of `armed`, then dies before it writes the eventfd
  for (auto& hints : f->header().frontends[kFrontend].done) hints.store(0);
  f.wake.clear();
  f->requeue(f.instance, true, f.wake);
  CHECK_EQ(f.wake.size(), 1u);
  CHECK_EQ(f.done().size(), 1u);
  f.wake.clear();
  f->requeue(f.instance, true, f.wake);
  CHECK(f.wake.empty());  // it knows by now
}

TEST(a_block_the_dead_did_not_record_is_found) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  CHECK(f->reserve_output(a, f.instance, kPageBytes).ok());
  f->slot(a.slot).output_block = 0;  // it died between taking and recording
  f->requeue(f.instance, false, f.wake);
  f->release(a);
  CHECK_EQ(f->blocks_in_use(), 1u);
  CHECK_EQ(f->release_quarantine(f.instance), 2u);
  check_idle(*f);
}

TEST(a_supervisor_continues_what_its_predecessor_began) {
  Fixture f;
  const Ticket a = submit(*f);
  f.claim();
  SlotWord word = word_of(*f, a.slot);
  word.owner = static_cast<std::uint16_t>(f.instance | 0x8000);  // taken over, then it died
  f->slot(a.slot).word.store(word.pack());
  CHECK_EQ(f->add_instance().value(), 1);  // 0 is not free yet
  CHECK_EQ(f->requeue(f.instance, true, f.wake).requeued, 1u);
  CHECK(f->cancel(a));
  f->release_quarantine(f.instance);
  check_idle(*f);
}

TEST(what_nobody_will_serve_is_answered) {
  Fixture f;
  const Ticket claimed = submit(*f);
  f.claim();
  const Ticket queued = submit(*f), leased = lease(*f);
  CHECK_EQ(f->fail_queued(Code::kUnavailable, "gone", f.wake), 1u);
  CHECK_EQ(f.wake.size(), 1u);
  CHECK(f->is_done(queued));
  CHECK_EQ(f->slot(queued.slot).code, static_cast<std::uint32_t>(Code::kUnavailable));
  CHECK(state_of(*f, claimed) == SlotState::kClaimed);
  CHECK(state_of(*f, leased) == SlotState::kLeased);
  CHECK_EQ(f->header().queued_rows.load(), 0);
  CHECK_EQ(f->fail_queued(Code::kUnavailable, "gone", f.wake), 0u);
}

TEST(hints_are_rebuilt_from_the_words) {
  Fixture f;
  const Ticket queued = submit(*f, {.rows = 3}), leased = lease(*f);
  SegmentHeader& header = f->header();
  header.free[0].store(0x55);
  header.queued[0].store(0xaa);
  header.queued_rows.store(-9);
  f->rebuild_hints();
  CHECK_EQ(header.queued[0].load(), std::uint64_t{1} << queued.slot);
  CHECK_EQ(header.free[0].load(),
           0xffu & ~(std::uint64_t{1} << queued.slot) & ~(std::uint64_t{1} << leased.slot));
  CHECK_EQ(header.queued_rows.load(), 3);
}
