// The bytes of a function's segment. Everything here is shared between processes that may run
// different builds, so it is versioned, asserted below, and holds offsets, never pointers.
//
//   SegmentHeader | SlotHeader x slot_count | BlockHeader x block_count | payloads | blocks
//
// The slot words are the truth. Bitmaps are hints that a scan of the words can rebuild.
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/atomic.hpp"
#include "base/clock.hpp"
#include "base/dtype.hpp"
#include "base/signature.hpp"

namespace gslice {

inline constexpr std::uint64_t kSegmentMagic = 0x31306563696c7367;  // "gslice01", little endian
inline constexpr std::uint32_t kLayoutVersion = 7;
inline constexpr std::size_t kMaxSlots = 1024;
inline constexpr std::size_t kMaxClasses = 3;
inline constexpr std::size_t kMaxFrontends = 16;  // eight, successors, those that retire
inline constexpr std::size_t kMaxInstances = 16;  // eight, shadows, and dead ones in quarantine
inline constexpr std::size_t kMaxLanes = 4;
inline constexpr std::size_t kMaxBlocks = 64;  // overflow blocks
inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kMessageBytes = 512;
inline constexpr std::uint16_t kNobody = 0xffff;

// ---- the slot word -------------------------------------------------------------------------

enum class SlotState : std::uint8_t {
  kFree = 0,         // nobody's
  kLeased = 1,       // owner: a front-end, which is writing the request
  kQueued = 2,       // owner: that front-end; any instance that may pull can claim it
  kClaimed = 3,      // owner: an instance; from here only the claimant frees it
  kDone = 4,         // owner: the front-end, which answers and frees
  kQuarantined = 5,  // owner: a dead instance whose device may still write into the payload
};

// Set while CLAIMED: the front-end has given the request up, so the claimant frees the slot.
inline constexpr std::uint8_t kFlagCancelled = 1;
// The request survived a worker's death and must run alone, so that a second death convicts it.
inline constexpr std::uint8_t kFlagAlone = 2;
// The payload's tail is held by a dead instance: on FREE the slot goes to QUARANTINED instead.
inline constexpr std::uint8_t kFlagTainted = 4;
// Set while DONE: the front-end has been told, so no scan tells it again.
inline constexpr std::uint8_t kFlagTaken = 8;

// {state:8, flags:8, owner:16, generation:32}. The generation grows with every lease, so the
// compare-and-swap of a stale ticket or of a late completion fails. Plain fields have no such
// guard: a claimant writes the answer before it swaps, so it must be dead before its slots are
// given on.
struct SlotWord {
  SlotState state = SlotState::kFree;
  std::uint8_t flags = 0;
  std::uint16_t owner = kNobody;
  std::uint32_t generation = 0;

  constexpr std::uint64_t pack() const {
    return std::uint64_t{static_cast<std::uint8_t>(state)} | std::uint64_t{flags} << 8 |
           std::uint64_t{owner} << 16 | std::uint64_t{generation} << 32;
  }
  static constexpr SlotWord unpack(std::uint64_t word) {
    return {static_cast<SlotState>(word & 0xff), static_cast<std::uint8_t>(word >> 8),
            static_cast<std::uint16_t>(word >> 16), static_cast<std::uint32_t>(word >> 32)};
  }
};

// ---- one request ---------------------------------------------------------------------------

// Where a tensor of a request lies. Whoever reads one checks it: `Segment::bytes_at`.
struct TensorRecord {
  std::uint64_t offset = 0;  // from the start of the segment
  std::uint64_t bytes = 0;
  std::array<std::int64_t, kMaxRank> dims{};
  std::uint32_t rank = 0;
  DType dtype = DType::kInvalid;
  std::array<std::uint8_t, 3> pad{};
};

// Who owns the slot (by its word) owns the plain fields; the `Relaxed` ones are also read by
// others, who trust what they read only if their compare-and-swap of the word then succeeds.
struct alignas(64) SlotHeader {
  Shared<std::uint64_t> word;
  std::uint64_t payload_offset = 0;            // fixed at creation
  std::uint64_t payload_bytes = 0;             // fixed at creation
  Relaxed<std::uint16_t> frontend{kNobody};    // who gets the answer
  Relaxed<std::uint16_t> tainted_by{kNobody};  // with kFlagTainted: the dead instance
  Relaxed<std::uint64_t> shape_key;  // requests with the same key and dims can share a batch
  Relaxed<std::uint32_t> rows;       // dim 0 of every input; 0 if the function is not batchable
  std::uint32_t code = 0;            // of the answer: Code
  Relaxed<std::int64_t> due_ns;      // claim order: the deadline or arrival + SLO, the earlier
  Relaxed<std::int64_t> deadline_ns{kNever};  // kNever: none
  // Stamps of the request's life, CLOCK_MONOTONIC.
  Relaxed<std::int64_t> queued_ns;
  std::int64_t leased_ns = 0, claimed_ns = 0;
  std::int64_t compute_ns = 0, computed_ns = 0, done_ns = 0;  // 0: it did not run
  // The output area: the payload's tail after the inputs, or an overflow block.
  std::uint64_t output_offset = 0;
  std::uint64_t output_bytes = 0;
  Relaxed<std::uint64_t> output_block;  // BlockRef::pack; 0: the payload's tail
  std::uint32_t input_count = 0;
  std::uint32_t output_count = 0;
  std::uint32_t message_bytes = 0;
  std::array<char, kMessageBytes> message{};  // of an error answer; UTF-8, cut at a boundary
  std::array<TensorRecord, kMaxTensors> inputs{};
  std::array<TensorRecord, kMaxTensors> outputs{};
};

enum class BlockState : std::uint8_t { kFree = 0, kUsed = 1, kQuarantined = 2 };

// {state:4, slot:12, owner:16, generation:32}. The slot lets a sweep find blocks that their taker
// did not live to record; owner is the taking instance, kNobody for the supervisor.
struct BlockWord {
  BlockState state = BlockState::kFree;
  std::uint16_t slot = 0;
  std::uint16_t owner = kNobody;
  std::uint32_t generation = 0;

  constexpr std::uint64_t pack() const {
    return std::uint64_t{static_cast<std::uint8_t>(state)} | std::uint64_t{slot} << 4 |
           std::uint64_t{owner} << 16 | std::uint64_t{generation} << 32;
  }
  static constexpr BlockWord unpack(std::uint64_t word) {
    return {static_cast<BlockState>(word & 0xf), static_cast<std::uint16_t>(word >> 4 & 0xfff),
            static_cast<std::uint16_t>(word >> 16), static_cast<std::uint32_t>(word >> 32)};
  }
};

// How a slot names its block. With the generation, freeing it twice does no harm.
struct BlockRef {
  std::uint32_t number = 0;  // 1 + the block's index
  std::uint32_t generation = 0;

  constexpr std::uint64_t pack() const {
    return std::uint64_t{number} | std::uint64_t{generation} << 32;
  }
  static constexpr BlockRef unpack(std::uint64_t ref) {
    return {static_cast<std::uint32_t>(ref), static_cast<std::uint32_t>(ref >> 32)};
  }
};

struct alignas(64) BlockHeader {
  Shared<std::uint64_t> word;
  std::uint64_t offset = 0;  // fixed at creation
};

// ---- tables --------------------------------------------------------------------------------

inline constexpr std::size_t kBitmapWords = kMaxSlots / 64;

struct alignas(64) FrontendEntry {
  Shared<std::uint32_t> active;  // 1: it may lease
  Shared<std::uint32_t> armed;   // 1: it sleeps; whoever takes the 1 writes its eventfd
  std::array<Shared<std::uint64_t>, kBitmapWords> done;  // hint: slots that turned DONE
};

struct alignas(64) InstanceEntry {
  Shared<std::uint32_t> doorbell;      // futex word: grows with every ring
  Shared<std::uint32_t> sleeping;      // 1: the pump waits on `doorbell`
  Shared<std::uint32_t> state;         // 0 absent, 1 present
  Shared<std::uint32_t> may_pull;      // written only under the function's lock
  Shared<std::int32_t> producer_cpu;   // where the last ring came from
  Shared<std::int64_t> pump_stamp_ns;  // the pump's last turn
  std::array<Shared<std::int64_t>, kMaxLanes>
      lane_started_ns;  // 0: idle; else since when it could run
  Shared<std::int64_t> last_claim_ns;
  Shared<std::int64_t> ready_since_ns;  // since when it could have claimed; 0: it can not now
  Shared<std::int64_t> first_wait_ns;   // dispatch wait of its first claim after a flip; -1: none
  Shared<std::uint32_t>
      alone_slot;  // 1 + the slot of its last ALONE claim; the word says if it runs
};

// ---- counters (relaxed; read by the daemon and the front-ends) --------------------------------

// Log-linear histogram of microseconds: 16 steps an octave (at most 6 % wide), 0 us to about 4 h.
inline constexpr std::size_t kHistogramSteps = 16;
inline constexpr std::size_t kHistogramBins = 32 * kHistogramSteps;
struct Histogram {
  std::array<Shared<std::uint64_t>, kHistogramBins> bins;
  Shared<std::uint64_t> count;
  Shared<std::uint64_t> sum_ns;
};

// The first five are of a request. The dispatch wait is of a claim: how long its oldest request
// waited although the claimant was ready. A turn's is from asking for it to having it.
enum class Stage : std::size_t {
  kQueue,
  kCopyIn,
  kCompute,
  kCopyOut,
  kTotal,
  kDispatch,
  kTurn,
  kCount,
};
enum class Outcome : std::size_t {
  kOk,
  kInvalid,
  kRejected,
  kExpired,
  kCancelled,
  kFailed,
  kRequeued,
  kPoisoned,
  kCount,
};

struct Stats {
  std::array<Histogram, static_cast<std::size_t>(Stage::kCount)> stage;
  std::array<Shared<std::uint64_t>, static_cast<std::size_t>(Outcome::kCount)> outcome;
  std::array<Shared<std::uint64_t>, 129> batch_rows;  // executions by rows; last: 128 and more
  Shared<std::uint64_t> rows;        // inferences (rows, or requests if not batchable)
  Shared<std::uint64_t> executions;  // batches
  Shared<std::uint64_t> copies;      // tensor memcpys by front-end and pump, in all
  Shared<std::uint64_t> copied_bytes;
  Shared<std::uint64_t> compute_busy_ns;
  Shared<std::int64_t> last_inference_ms;  // wall clock, for ModelStatistics
};

// ---- the segment ---------------------------------------------------------------------------

struct SegmentHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t header_bytes = 0;  // sizeof(SegmentHeader): another build's layout is refused
  std::uint64_t segment_bytes = 0;
  std::uint64_t generation = 0;  // random, new for each segment
  std::uint32_t slot_count = 0;
  std::uint32_t class_count = 0;
  std::uint32_t block_count = 0;
  std::uint64_t slots_offset = 0;
  std::uint64_t blocks_offset = 0;
  std::uint64_t block_bytes = 0;
  std::array<std::uint32_t, kMaxClasses> class_first{};  // slots of a class are neighbours,
  std::array<std::uint32_t, kMaxClasses> class_slots{};  // classes ascend in size
  std::array<std::uint64_t, kMaxClasses> class_bytes{};  // payload of each of their slots
  std::array<char, 128> name{};

  // Robust, process-shared: taken once a batch by consumers, never by producers.
  pthread_mutex_t lock{};

  // Published by the controller; read at every claim and admission.
  Shared<std::uint32_t> batch_rows_max;  // 0: as the signature says
  Shared<std::int64_t> batch_delay_ns;
  Shared<std::int64_t> admit_within_ns;    // what would take longer is shed; 0: nothing is
  Shared<std::int64_t> batch_estimate_ns;  // smoothed time of one batch, with its turn; 0: unknown
  Shared<std::int64_t> queued_rows;        // hint for the predicted finish
  Shared<std::int64_t> lease_scan_ns;      // when a full segment may next be scanned for free slots

  std::array<Shared<std::uint64_t>, kBitmapWords> free;  // hints
  std::array<Shared<std::uint64_t>, kBitmapWords> queued;

  std::array<FrontendEntry, kMaxFrontends> frontends;
  std::array<InstanceEntry, kMaxInstances> instances;
  Stats stats;
};

static_assert(kMaxSlots <= 1 << 12, "BlockWord::slot has 12 bits");
static_assert(sizeof(TensorRecord) == 88);
static_assert(sizeof(SlotHeader) % 64 == 0);
static_assert(offsetof(SlotHeader, word) == 0);

}  // namespace gslice
