#include "turns/turn.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <system_error>

#include "base/scheduling.hpp"
#include "segment/lock.hpp"

namespace gslice {

namespace {

// Who waits for longer sees to it that nobody dead has the turn: a death is the daemon's to settle,
// but there may be no daemon.
constexpr std::int64_t kLookNs = 100'000'000;

}  // namespace

Status Turn::join(std::shared_ptr<TurnBoard> board, std::uint32_t index) {
  if (index >= kMaxTurns)
    return Status::Error(Code::kInvalidArgument, "a turn board has no entry " +
                                                     std::to_string(index) + "; there are " +
                                                     std::to_string(kMaxTurns));
  board_ = std::move(board);
  index_ = index;
  return Status::Ok();
}

// ---- the pump's part

void Turn::begin() {
  present_ = board_ != nullptr && presence::begin(board_->entry(index_).presence);
}

void Turn::end() {
  give_back();
  if (present_) presence::end(board_->entry(index_).presence);
  present_ = false;
}

std::int64_t Turn::ask(std::int64_t due_ns, std::int64_t now) {
  if (hold_ == Hold::kOurs) return 0;
  if (hold_ == Hold::kWaits) {
    if (now >= look_ns_) {
      board_->look(index_, now);
      look_ns_ = now + kLookNs;
    }
    if (board_->granted(index_)) return become_ours();
    if (due_ns == due_ns_) return look_ns_;
    due_ns_ = due_ns;
    return board_->change_due(index_, due_ns, now) ? become_ours() : look_ns_;
  }
  due_ns_ = due_ns;
  asked_ns_ = now;
  look_ns_ = now + kLookNs;
  hold_ = Hold::kWaits;
  return board_->ask(index_, due_ns, now) ? become_ours() : look_ns_;
}

std::int64_t Turn::become_ours() {
  hold_ = Hold::kOurs;
  granted_ns_ = board_->entry(index_).granted_ns.load_relaxed();
  return 0;
}

void Turn::run_anyway() {
  if (hold_ == Hold::kUsed) return;
  hold_ = Hold::kUsed;
  board_->run_anyway(index_);
}

void Turn::give_back() {
  if (hold_ == Hold::kNone) return;
  hold_ = Hold::kNone;
  board_->give_back(index_);
}

// ---- the listener

Status Turn::listen(std::function<void()> ring, bool real_time) {
  if (board_ == nullptr) return Status::Ok();
  ring_ = std::move(ring);
  const std::uint32_t heard = board_->entry(index_).bell.load();
  try {
    listener_ = std::thread([this, heard, real_time] {
      prctl(PR_SET_NAME, "gslice-turn");
      if (!real_time || !run_in_real_time()) ask_for_short_turns();
      listener_tid_.store(gettid());
      listener_tid_.notify_all();
      for (std::uint32_t bell = heard;;) {
        bell = board_->await_ring(index_, bell);
        if (stopping_.load()) return;
        ring_();
      }
    });
  } catch (const std::system_error& error) {
    return Status::Error(Code::kResourceExhausted,
                         std::string("no thread to hear of turns: ") + error.what());
  }
  listener_tid_.wait(0);
  return Status::Ok();
}

void Turn::stop_listening() {
  if (!listener_.joinable()) return;
  stopping_.store(true);
  board_->ring(index_);
  listener_.join();
}

}  // namespace gslice
