// Creation, opening, leases, answers: everything but the claim's choice and the recovery.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <set>
#include <thread>

#include "segment/lock.hpp"
#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// A memfd like a segment's, whose bytes a test may spoil before it is opened.
class Copy {
 public:
  explicit Copy(Segment& segment, bool sealed = true)
      : bytes_(segment.size_bytes()), fd_(memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    CHECK(fd_ >= 0);
    std::vector<std::byte> all(bytes_);
    CHECK(pread(segment.fd(), all.data(), bytes_, 0) == static_cast<ssize_t>(bytes_));
    CHECK(pwrite(fd_, all.data(), bytes_, 0) == static_cast<ssize_t>(bytes_));
    if (sealed) CHECK(fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  }
  ~Copy() { close(fd_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  template <typename T>
  void write(std::size_t at, T value) {
    CHECK(pwrite(fd_, &value, sizeof(value), static_cast<off_t>(at)) == sizeof(value));
  }
  template <typename T>
  T read(std::size_t at) {
    T value{};
    CHECK(pread(fd_, &value, sizeof(value), static_cast<off_t>(at)) == sizeof(value));
    return value;
  }
  void lengthen(std::uint64_t bytes) {
    CHECK(ftruncate(fd_, static_cast<off_t>(bytes_ + bytes)) == 0);
  }
  bool opens() { return Segment::open(fd_).ok(); }

 private:
  std::uint64_t bytes_;
  int fd_;
};

}  // namespace

TEST(create_refuses_bad_specs) {
  const auto refuses = [](const SegmentSpec& spec) {
    auto created = Segment::create(spec);
    return !created.ok() && created.status().code == Code::kInvalidArgument;
  };
  CHECK(refuses(spec_of({})));
  CHECK(refuses(spec_of({{kPage, 0}})));
  CHECK(refuses(spec_of({{kPage - 1, 1}})));
  CHECK(refuses(spec_of({{0, 1}})));
  CHECK(refuses(spec_of({{~std::uint64_t{0} - kPage + 1, 1}})));
  CHECK(refuses(spec_of({{2 * kPage, 1}, {kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}, {kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}, {2 * kPage, 1}, {3 * kPage, 1}, {4 * kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, kMaxSlots}, {2 * kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}}, kMaxBlocks + 1)));
  SegmentSpec unnamed = spec_of();
  unnamed.name.clear();
  CHECK(refuses(unnamed));
  unnamed.name.assign(128, 'x');
  CHECK(refuses(unnamed));
  SegmentSpec odd_block = spec_of();
  odd_block.block_bytes = 17;
  CHECK(refuses(odd_block));
}

TEST(created_segment_is_sealed_and_idle) {
  Fixture f(spec_of({{kPage, 3}, {4 * kPage, 2}}));
  CHECK(ftruncate(f->fd(), 0) != 0);
  CHECK(ftruncate(f->fd(), static_cast<off_t>(f->size_bytes() * 2)) != 0);
  CHECK_EQ(f->slot_count(), 5u);
  CHECK_EQ(f->name(), "f");
  CHECK_EQ(f->header().owner_pid, getpid());
  check_idle(*f);
}

TEST(another_mapping_sees_the_same_slots) {
  Fixture f;
  auto opened = Segment::open(f->fd());
  CHECK(opened.ok());
  Segment& other = *opened.value();
  CHECK_EQ(other.name(), "f");
  CHECK_EQ(other.header().generation, f->header().generation);
  const Ticket ticket = submit(other);
  CHECK(state_of(*f, ticket) == SlotState::kQueued);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK_EQ(f.complete(ticket), kFrontend);
  CHECK(other.is_done(ticket));
  other.release(ticket);
  check_idle(*f);
}

TEST(open_refuses_what_is_no_segment) {
  CHECK(!Segment::open(-1).ok());
  const int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(!Segment::open(plain).ok());
  CHECK(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  CHECK(!Segment::open(plain).ok());  // empty
  close(plain);

  Fixture f;
  CHECK(Copy(*f).opens());
  CHECK(!Copy(*f, false).opens());  // could be shortened under us
  Copy longer(*f);
  longer.lengthen(kPage);
  CHECK(!longer.opens());
}

TEST(open_refuses_spoiled_headers) {
  Fixture f(spec_of({{kPage, 3}, {4 * kPage, 2}}));
  const auto refuses32 = [&](std::size_t at, std::uint32_t value) {
    Copy copy(*f);
    copy.write(at, value);
    return !copy.opens();
  };
  const auto refuses64 = [&](std::size_t at, std::uint64_t value) {
    Copy copy(*f);
    copy.write(at, value);
    return !copy.opens();
  };
  CHECK(refuses64(offsetof(SegmentHeader, magic), 1));
  CHECK(refuses32(offsetof(SegmentHeader, version), kLayoutVersion + 1));
  CHECK(refuses32(offsetof(SegmentHeader, header_bytes), 64));
  CHECK(refuses64(offsetof(SegmentHeader, segment_bytes), 0));
  for (const std::uint32_t count : {0u, 1u, 4u, 1025u, ~0u}) {
    CHECK(refuses32(offsetof(SegmentHeader, slot_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, block_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_first) + sizeof(std::uint32_t), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_slots), count));
  }
  for (const std::uint64_t offset : {std::uint64_t{0}, kPage, ~std::uint64_t{0}, ~kPage + 1}) {
    CHECK(refuses64(offsetof(SegmentHeader, slots_offset), offset));
    CHECK(refuses64(offsetof(SegmentHeader, blocks_offset), offset));
    if (offset != kPage) {
      CHECK(refuses64(offsetof(SegmentHeader, class_bytes), offset));
      CHECK(refuses64(offsetof(SegmentHeader, block_bytes), offset));
    }
    Copy copy(*f);
    const auto slots = copy.read<std::uint64_t>(offsetof(SegmentHeader, slots_offset));
    copy.write(slots + sizeof(SlotHeader) + offsetof(SlotHeader, payload_offset), offset);
    CHECK(!copy.opens());
  }
}

// Whatever four bytes of the header are spoiled: opening fails, or the segment works within bounds.
TEST(open_survives_any_spoiled_header_word) {
  Fixture f(spec_of({{kPage, 2}}, 1));
  const std::size_t fixed = offsetof(SegmentHeader, lock);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < fixed; at += 4) {
    for (const std::uint32_t value : {0u, 1u, 0x7fffffffu, ~0u}) {
      Copy copy(*f);
      copy.write(at, value);
      if (!copy.opens()) ++refused;
    }
  }
  CHECK(refused > 60);
}

TEST(bytes_at_stays_inside) {
  Fixture f;
  const std::uint64_t first = f->slot(0).payload_offset;
  const std::uint64_t size = f->size_bytes();
  CHECK_EQ(f->bytes_at(first, kPage).size(), kPage);
  CHECK_EQ(f->bytes_at(size - 1, 1).size(), 1u);
  CHECK(f->bytes_at(size - 1, 2).empty());
  CHECK(f->bytes_at(size, 1).empty());
  CHECK(f->bytes_at(first - 1, 1).empty());  // headers are no payload
  CHECK(f->bytes_at(0, 64).empty());
  CHECK(f->bytes_at(first, ~std::uint64_t{0}).empty());
  CHECK(f->bytes_at(~std::uint64_t{0}, 2).empty());
}

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
  CHECK_EQ(f.claimed.rows, 3u);
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
  CHECK_EQ(f->slot(lease(*f, kFrontend, 2 * kPage).slot).slot_class, 1u);
  CHECK_EQ(f->slot(lease(*f, kFrontend, 1).slot).slot_class, 0u);
  CHECK_EQ(f->slot(lease(*f, kFrontend, 1).slot).slot_class, 2u);
  CHECK(f->lease(kFrontend, 1).status().code == Code::kResourceExhausted);
  CHECK(f->lease(kFrontend, 4 * kPage + 1).status().code == Code::kInvalidArgument);
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
  CHECK_EQ(slot.attempts, 0u);
  CHECK_EQ(slot.output_offset, slot.payload_offset);
  CHECK_EQ(slot.output_bytes, slot.payload_bytes);
  CHECK(slot.leased_ns > 0);
  CHECK_EQ(slot.done_ns, 0);
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
