// The bytes of a device's turn board. Shared between processes that may run different builds, so it
// is versioned, asserted below, and holds no pointers.
//
// A device's shares may add up to more than it has. Then whoever wants to run a batch takes a turn:
// the turns that are taken at any instant fit into the device, and the next one is for the batch
// that is due first. The states of the entries are the truth; nothing is remembered beside them.
#pragma once

#include <pthread.h>

#include <array>
#include <cstdint>

#include "base/atomic.hpp"

namespace gslice {

inline constexpr std::uint64_t kTurnBoardMagic = 0x31306e7274736c67;  // "glstrn01", little endian
inline constexpr std::uint32_t kTurnBoardVersion = 1;
inline constexpr std::size_t kMaxTurns = 128;  // instances on one device
inline constexpr std::uint32_t kWholePpm = 1'000'000;
inline constexpr std::uint32_t kNoTurn = 0xffff'ffff;

enum class TurnState : std::uint32_t {
  kAbsent = 0,   // nobody's entry
  kIdle = 1,     // an instance that wants nothing
  kWaiting = 2,  // it has a batch, due at `due_ns`
  kRunning = 3,  // it has the turn: its share counts
};

// An instance's. The daemon makes and removes it; its pump asks and gives back; whoever holds the
// board's lock makes WAITING RUNNING.
struct alignas(64) TurnEntry {
  Shared<TurnState> state;
  Shared<std::uint32_t> share_ppm;  // of the device
  Shared<std::uint32_t> bell;       // futex word: grows when its pump should look
  Relaxed<std::uint32_t> instance;  // in the segment of that generation
  Relaxed<std::uint64_t> segment;
  Relaxed<std::int32_t> pid;
  Shared<std::int64_t> due_ns;      // of the request that is due first
  Shared<std::int64_t> asked_ns;    // since when it waits or waited
  Shared<std::int64_t> granted_ns;  // since when it runs
  pthread_mutex_t presence{};       // held by the pump's thread while it lives
};

struct TurnBoardHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t board_bytes = 0;    // another build's layout is refused
  std::uint64_t generation = 0;     // random, new for each board
  pthread_mutex_t lock{};           // robust, process-shared: taken to grant
  Shared<std::uint32_t> limit_ppm;  // 0: turns are off, and pumps look at nothing else
  Shared<std::uint32_t> used;       // entries from there on were never anybody's
  std::array<TurnEntry, kMaxTurns> entries;
};

static_assert(sizeof(TurnEntry) == 128);

}  // namespace gslice
