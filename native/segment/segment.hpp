// A function's shared memory: the slot table is the queue. See layout.hpp for the bytes and
// docs/architecture.md for the life of a request. All methods may be called from any process that
// maps the segment, from any thread, unless a comment says who may.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/shared_memory.hpp"
#include "base/status.hpp"
#include "segment/layout.hpp"

namespace gslice {

struct SlotClassSpec {
  std::uint64_t payload_bytes;  // multiple of kPageBytes
  std::uint32_t count;
};

struct SegmentSpec {
  std::string name;                    // the function's
  std::vector<SlotClassSpec> classes;  // 1..kMaxClasses, ascending in payload_bytes
  std::uint64_t block_bytes = 0;       // overflow pool
  std::uint32_t block_count = 0;
};

// One lease: names a slot and the generation of its word. 0 <= index < kMaxSlots.
struct Ticket {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
};

// When its batch computed, and when it became DONE; zeros: it did not run.
struct RunStamps {
  std::int64_t compute_ns = 0, computed_ns = 0, done_ns = 0;
};

struct Claim {
  std::vector<Ticket> slots;       // CLAIMED by the caller, one shape, in due order
  std::int64_t wait_until_ns = 0;  // no slots yet: when the batch delay ends; kNever: empty queue
  std::int64_t due_ns = 0;         // after peek(): of the request that is due first
};

struct ClaimLimits {
  std::uint32_t rows_max = 0;   // of the signature; 0: one request a batch
  std::uint32_t in_flight = 0;  // batches this instance has claimed and not completed
  bool full_only = false;       // a batch that is not full stays queued, and can still grow
  bool last = false;            // until one completes, nothing can be launched beside this batch
};

struct Requeued {
  std::uint32_t requeued = 0;  // will run again, alone
  std::uint32_t poisoned = 0;  // died while alone, or may not run twice: answered with an error
  std::uint32_t freed = 0;     // had been cancelled
  std::uint32_t failed = 0;    // found no overflow block to run in again: answered kUnavailable
};

// A run of bytes, by offset from the start of the segment.
struct Area {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool holds(std::uint64_t at, std::uint64_t count) const {
    return at >= offset && count <= bytes && at - offset <= bytes - count;
  }
};

class Segment {
 public:
  static Result<std::shared_ptr<Segment>> create(const SegmentSpec& spec);
  // Maps a duplicate of `fd`. Refuses wrong magic, version, layout size, or a file that is shorter
  // than its header says or not sealed against shrinking.
  static Result<std::shared_ptr<Segment>> open(int fd);
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  int fd() const { return memory_.fd(); }
  std::uint64_t size_bytes() const { return size_bytes_; }
  SegmentHeader& header() { return *header_; }
  std::string_view name() const { return name_; }
  SlotHeader& slot(std::uint32_t index) { return slots_[index]; }  // index must be < slot_count()
  std::uint32_t slot_count() const { return slot_count_; }  // checked copy, not the shared value
  std::uint64_t largest_payload_bytes() const { return classes_[class_count_ - 1].payload_bytes; }

  // The ways from an offset in shared memory to an address: the bytes [offset, offset + bytes), or
  // an empty span if any of it lies outside, for `bytes_at` of the segment's payload and block
  // areas, for `payload_at` of that slot's own payload.
  std::span<std::byte> bytes_at(std::uint64_t offset, std::uint64_t bytes);
  std::span<std::byte> payload_at(std::uint32_t index, std::uint64_t offset, std::uint64_t bytes);
  // All of them, whole pages: what a device may reach.
  std::span<std::byte> payloads() { return {base_ + payload_begin_, size_bytes_ - payload_begin_}; }

  // ---- front-end ----
  // FREE -> LEASED in the smallest class that holds `payload_bytes`, or a larger one when that is
  // full. kResourceExhausted: no free slot, or larger than any class.
  // Resets the header: outputs area = whole payload, stamps, counts, code.
  Result<Ticket> lease(std::uint16_t frontend, std::uint64_t payload_bytes);
  // LEASED -> QUEUED, then rings the instances that may pull, or has the caller do so: who queues
  // several at once need not wake a pump for each. False: the lease was reaped.
  bool queue(Ticket ticket, bool ring = true);
  void ring_pullers();
  // The request is given up. LEASED, QUEUED, DONE -> FREE at once (true); CLAIMED: flagged, its
  // claimant will free it (false). A stale ticket does nothing (true). Counted as `why`.
  bool cancel(Ticket ticket, Outcome why = Outcome::kCancelled);
  // DONE -> FREE (or QUARANTINED if tainted), with its overflow block. Only its front-end.
  void release(Ticket ticket);
  // Arms the front-end's wake-up, then takes the slots that turned DONE for it. A slot is returned
  // once; order is by index.
  void take_done(std::uint16_t frontend, std::vector<Ticket>& out);
  bool is_done(Ticket ticket);

  // ---- pump ----
  // Under the function's lock: if `instance` may pull, claims up to the limits in due order, all
  // with the shape of the first due one. What their headers say is the claimant's to check.
  // Requests past their deadline, cancelled ones and those of an inactive front-end are finished
  // here and never run (`wake` gets the front-ends to wake). A request flagged ALONE is claimed
  // only when limits.in_flight == 0, and by itself.
  void claim(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now, Claim& out,
             std::vector<std::uint16_t>& wake);
  // As claim(), but claims nothing. True: it would, and `out.due_ns` is when that is due.
  bool peek(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now, Claim& out,
            std::vector<std::uint16_t>& wake);
  // The output area of a CLAIMED slot as its header has it, if it is the slot's own: of its
  // payload, or a block that was taken for it.
  std::optional<Area> output_area(std::uint32_t index);
  // An output area of at least `bytes` for a CLAIMED slot: the one it has, or an overflow block.
  Status reserve_output(Ticket ticket, std::uint16_t instance, std::uint64_t bytes);
  // CLAIMED -> DONE with the code and message (message only for errors); if cancelled: -> FREE.
  // True: the front-end `*wake` was asleep, and the caller must write its eventfd. `*wake` is the
  // front-end whenever an answer was given, kNobody if not (it was cancelled: no `ok` to count).
  bool complete(Ticket ticket, std::uint16_t instance, Code code, std::string_view message,
                std::uint16_t* wake, const RunStamps& stamps = {});
  // The pump's sleep: returns when the doorbell differs from `doorbell_seen`, or at `until_ns`.
  // Read `doorbell()` before `claim()`: whatever is queued after that makes this return at once.
  void wait(std::uint16_t instance, std::uint32_t doorbell_seen, std::int64_t until_ns);
  std::uint32_t doorbell(std::uint16_t instance);
  void ring(std::uint16_t instance);  // also for lane threads of the same instance

  // ---- supervisor (one process at a time: the daemon) ----
  Result<std::uint16_t> add_instance();  // present, may not pull
  void remove_instance(std::uint16_t instance);
  // The swap: under the lock, `old` may no longer pull and `next` may; kNobody: none. Rings `next`,
  // which is ready since `old` was, or since now if `old` was not: no wait is lost between the two.
  // Returns for how long neither could claim, in ns: from asking for the lock until it is free
  // again. Nothing: it could not be taken in time (its holder hangs), and nothing was changed.
  std::optional<std::int64_t> flip(std::uint16_t old, std::uint16_t next);
  bool may_pull(std::uint16_t instance);
  void activate_frontend(std::uint16_t frontend);
  // A dead front-end: LEASED, QUEUED, DONE of it -> FREE; CLAIMED: flagged cancelled. How many.
  std::uint32_t reap_frontend(std::uint16_t frontend);
  // A dead instance (it must be: see SlotWord): its CLAIMED slots go back to QUEUED, alone, with a
  // fresh output area; the old area is quarantined until `release_quarantine`. Poisoned ones are
  // answered. Writes into `wake` the front-ends to wake. `device_gone`: its device side is proven
  // gone already (always so on the CPU device), so the old area is used again and nothing is
  // quarantined. `blamed`: false if it died of what another function did, which convicts no request
  // of ours.
  Requeued requeue(std::uint16_t instance, bool may_rerun, std::vector<std::uint16_t>& wake,
                   bool device_gone = false, bool blamed = true);
  // QUEUED -> DONE with an error, for a function that nobody will serve any more. How many.
  std::uint32_t fail_queued(Code code, std::string_view message, std::vector<std::uint16_t>& wake);
  // The device side of `instance` is proven gone: QUARANTINED slots and blocks of it -> FREE.
  std::uint32_t release_quarantine(std::uint16_t instance);
  // How many slots are in each state, by index of SlotState; and the overflow blocks in use.
  std::array<std::uint32_t, 6> count_states();
  std::uint32_t blocks_in_use();
  // Scans the words and sets the hint bitmaps from them (after a crash, at adoption).
  void rebuild_hints();

 private:
  // Checked copies of the tables' bounds: what the shared header says later is never believed.
  struct ClassTable {
    std::uint32_t first = 0, slots = 0;
    Area payloads;
    std::uint64_t payload_bytes = 0;
  };
  struct Candidate;
  struct Candidates;

  Segment() = default;

  // ---- mapping.cpp ----
  void hold(SharedMemory memory);
  void describe(const SegmentSpec& spec);
  Status check_header();
  Status check_slots();
  Area payload_of(std::uint32_t index) const;
  Area block_area(std::uint32_t block) const;

  // ---- words.cpp: slot words and the hints about them ----
  SlotWord load_word(std::uint32_t index);
  bool swap_word(std::uint32_t index, SlotWord& seen, SlotWord next);
  bool names(Ticket ticket, SlotWord word) const;
  static std::int64_t queued_weight(std::uint32_t rows);
  void mark_queued(std::uint32_t index, std::uint32_t rows);
  void unmark_queued(std::uint32_t index, std::uint32_t rows);
  void repair_free(std::uint32_t index);
  void repair_queued(std::uint32_t index);
  void repair_done(std::uint32_t index);
  bool take_back(std::uint32_t index, SlotWord& seen);
  bool retire(std::uint32_t index, SlotWord owned);
  bool announce_done(std::uint32_t index, std::uint16_t frontend);
  void count(Outcome outcome);

  // ---- frontend.cpp ----
  bool try_lease(std::uint32_t index, std::uint16_t frontend, Ticket& out);
  bool lease_hinted(std::uint64_t payload_bytes, std::uint16_t frontend, Ticket& out);
  bool scan_for_free();
  void take_answer(std::uint32_t index, std::uint16_t frontend, std::vector<Ticket>& out);

  // ---- blocks.cpp: the overflow pool ----
  std::uint64_t take_block(std::uint32_t index, std::uint16_t owner);
  void move_block(std::uint64_t ref, BlockState to, std::uint16_t owner);
  void free_block(std::uint64_t ref);
  void quarantine_block(std::uint64_t ref, std::uint16_t instance);
  void use_block(std::uint32_t index, std::uint64_t ref);
  void sweep_blocks(std::uint16_t owner, BlockState to);
  std::uint32_t release_blocks(std::uint16_t instance);
  bool owns_block(std::uint16_t instance);

  // ---- claim.cpp ----
  bool choose(std::uint16_t instance, const ClaimLimits& limits, std::int64_t now,
              Candidates& batch, Claim& out, std::vector<std::uint16_t>& wake);
  void scan_queue(std::uint16_t instance, std::int64_t now, Candidates& found,
                  std::vector<std::uint16_t>& wake);
  void consider(std::uint32_t index, std::uint16_t instance, std::int64_t now, Candidates& found,
                std::vector<std::uint16_t>& wake);
  std::int64_t delayed_until(const Candidates& batch, std::int64_t now);
  bool take(const Candidate& candidate, std::uint16_t instance);
  void put_back(std::uint32_t index, std::uint16_t instance);
  bool runs_alone(std::uint16_t instance);
  void record_dispatch(InstanceEntry& entry, const Claim& claim, std::int64_t now);
  void fail(std::uint32_t index, std::uint16_t instance, Code code, std::string_view message,
            std::vector<std::uint16_t>& wake);

  // ---- request.cpp: what a claimed slot's header says ----
  bool same_shape(std::uint32_t index, std::uint32_t other);
  void write_answer(std::uint32_t index, Code code, std::string_view message,
                    const RunStamps& stamps = {});

  // ---- recovery.cpp ----
  bool take_over(std::uint32_t index, std::uint16_t instance, SlotWord& taken);
  void quarantine_output(std::uint32_t index, SlotWord& taken, std::uint16_t instance);
  void settle(std::uint32_t index, SlotWord taken, bool may_rerun, bool device_gone, bool blamed,
              Requeued& counts);
  bool reap(std::uint32_t index, std::uint16_t frontend);
  bool release_slot(std::uint32_t index, std::uint16_t instance);
  bool owns_anything(std::uint16_t instance);

  SharedMemory memory_;
  std::byte* base_ = nullptr;
  SegmentHeader* header_ = nullptr;
  SlotHeader* slots_ = nullptr;
  BlockHeader* blocks_ = nullptr;
  std::string name_;
  std::uint64_t size_bytes_ = 0;
  std::uint32_t slot_count_ = 0;
  std::uint32_t class_count_ = 0;
  std::uint32_t block_count_ = 0;
  std::uint32_t bitmap_words_ = 0;  // that slot_count_ needs
  std::uint64_t block_bytes_ = 0;
  std::uint64_t payload_begin_ = 0;
  std::uint64_t blocks_begin_ = 0;
  std::array<ClassTable, kMaxClasses> classes_{};
};

// Histogram bin of a duration, and the lower bound of a bin in microseconds.
std::size_t histogram_bin(std::int64_t duration_ns);
double histogram_bin_lower_us(std::size_t bin);
void histogram_add(Histogram& histogram, std::int64_t duration_ns);

}  // namespace gslice
