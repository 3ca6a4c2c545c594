// A warm request costs no allocation in the segment: every `new` of this program is counted.
#include "allocations.hpp"
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// A batch of requests, one of them expired, from lease to release.
void serve_batch(Fixture& f, std::vector<Ticket>& done) {
  const std::int64_t now = now_ns();
  for (std::int64_t i = 0; i < 6; ++i) submit(*f, {.due_ns = now + i});
  submit(*f, {.deadline_ns = now});
  f.wake.clear();
  f.claim({.rows_max = 8, .in_flight = 0}, now);
  CHECK_EQ(f.claimed.slots.size(), 6u);
  CHECK(f->reserve_output(f.claimed.slots[0], f.instance, kPageBytes).ok());
  for (const Ticket& ticket : f.claimed.slots) f.complete(ticket, Code::kInternal, "a reason");
  done.clear();
  f->take_done(kFrontend, done);
  CHECK_EQ(done.size(), 7u);
  for (const Ticket& ticket : done) f->release(ticket);
}

}  // namespace

TEST(no_allocation_once_warm) {
  Fixture f;
  std::vector<Ticket> done;
  serve_batch(f, done);
  const std::size_t before = allocations.load();
  for (int turn = 0; turn < 100; ++turn) serve_batch(f, done);
  CHECK_EQ(allocations.load() - before, 0u);
  check_idle(*f);
}
