// A device's turn board: see layout.hpp for the bytes, and docs/architecture.md for who does what.
// All methods may be called from any process that maps it, from any thread, unless a comment says
// who may.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string>

#include "base/shared_memory.hpp"
#include "base/status.hpp"
#include "turns/layout.hpp"

namespace gslice {

class TurnBoard {
 public:
  // Turns are off.
  static Result<std::shared_ptr<TurnBoard>> create(const std::string& device);
  // Maps a duplicate of `fd`. kInternal: it is not a board of this build.
  static Result<std::shared_ptr<TurnBoard>> open(int fd);
  TurnBoard(const TurnBoard&) = delete;
  TurnBoard& operator=(const TurnBoard&) = delete;

  int fd() const { return memory_.fd(); }
  TurnBoardHeader& header() { return *header_; }
  TurnEntry& entry(std::uint32_t index) { return header_->entries[index]; }  // < kMaxTurns
  bool on() const { return header_->limit_ppm.load_relaxed() != 0; }

  // ---- the daemon, one at a time ----
  // What the shares of those that have a turn may add up to; 0 switches turns off. Whoever waits
  // looks again. A batch that runs already counts from when its pump hears of it.
  void set_limit(std::uint32_t limit_ppm);
  // An entry, IDLE. kResourceExhausted: there is none left.
  Result<std::uint32_t> add(std::uint64_t segment, std::uint32_t instance, std::int32_t pid,
                            std::uint32_t share_ppm);
  // Its instance is gone; what it had is free.
  void remove(std::uint32_t index);
  // Counts at once, also for a batch that runs.
  void set_share(std::uint32_t index, std::uint32_t share_ppm);

  // ---- the entry's pump ----
  // Wants a turn for what is due then; one that it has had is over by that. True: it has it now.
  bool ask(std::uint32_t index, std::int64_t due_ns, std::int64_t now);
  // While it waits: something else is due first. True: it has the turn now.
  bool change_due(std::uint32_t index, std::int64_t due_ns, std::int64_t now);
  bool granted(std::uint32_t index) { return entry(index).state.load() == TurnState::kRunning; }
  // Wants none any more, and has none.
  void give_back(std::uint32_t index);
  // A batch runs that has no turn, for it was launched without: nobody else may have its share.
  void run_anyway(std::uint32_t index) { entry(index).state.store(TurnState::kRunning); }
  // Takes the turns of those that have died, which nobody may have noticed, and grants what is
  // free: for one that has waited for long.
  void look(std::uint32_t index, std::int64_t now);

  void ring(std::uint32_t index);
  // Until `bell` is not `seen` any more. Returns what it is.
  std::uint32_t await_ring(std::uint32_t index, std::uint32_t seen);

 private:
  using Rung = std::bitset<kMaxTurns>;  // whose bells to ring, once the lock is free again

  explicit TurnBoard(SharedMemory memory) : memory_(std::move(memory)) {}
  std::uint32_t used() const;
  void grant(std::int64_t now, Rung& rung);
  void share_out(std::int64_t now, std::uint32_t asking = kNoTurn);

  SharedMemory memory_;
  TurnBoardHeader* header_ = nullptr;
};

}  // namespace gslice
