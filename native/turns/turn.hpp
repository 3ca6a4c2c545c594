// An instance's turns on its device: what its pump asks of the turn board before each batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "base/clock.hpp"
#include "base/status.hpp"
#include "turns/board.hpp"

namespace gslice {

// Without a board, or with turns off, nothing is ever needed or waited for. Of the pump's thread,
// unless a comment says otherwise.
class Turn {
 public:
  Turn() = default;
  ~Turn() { stop_listening(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // Before all else. kInvalidArgument: no such entry.
  Status join(std::shared_ptr<TurnBoard> board, std::uint32_t index);
  // Starts the one thread that hears the board's bell, and calls `ring` for each. It works for
  // microseconds at a time; `real_time`: before all others, where this user may. Whoever owns it.
  Status listen(std::function<void()> ring, bool real_time);
  void stop_listening();
  int listener_tid() const { return listener_tid_.load(); }

  // Around all that follows: from here to there the others know that this thread lives.
  void begin();
  void end();

  bool needed() const { return board_ != nullptr && board_->on(); }
  // It is ours, and no batch has been launched in it yet.
  bool is_ours() const { return hold_ == Hold::kOurs; }
  bool waits() const { return hold_ == Hold::kWaits; }
  // Wants it for what is due then. 0: it is ours. Else when to ask again, if the bell does not
  // ring.
  std::int64_t ask(std::int64_t due_ns, std::int64_t now);
  // A batch is launched in it. How long that waited for it; 0: it needed none.
  std::int64_t use() {
    if (hold_ != Hold::kOurs) return 0;
    hold_ = Hold::kUsed;
    return waited_ns();
  }
  // A batch runs that was launched without.
  void run_anyway();
  // It is not wanted any more.
  void give_back();

  // Of the last one that became ours.
  std::int64_t granted_ns() const { return granted_ns_; }
  std::int64_t waited_ns() const { return granted_ns_ - asked_ns_; }

 private:
  enum class Hold { kNone, kWaits, kOurs, kUsed };

  std::int64_t become_ours();

  std::shared_ptr<TurnBoard> board_;
  std::uint32_t index_ = kNoTurn;
  Hold hold_ = Hold::kNone;
  bool present_ = false;
  std::int64_t due_ns_ = kNever, asked_ns_ = 0, granted_ns_ = 0, look_ns_ = 0;

  std::function<void()> ring_;
  std::thread listener_;
  std::atomic<int> listener_tid_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace gslice
