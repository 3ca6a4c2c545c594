#include "turns/board.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <random>
#include <utility>

#include "base/clock.hpp"
#include "base/futex.hpp"
#include "segment/lock.hpp"

namespace gslice {

namespace {

// It is held for microseconds. Who cannot have it leaves what it wrote for the next one to see:
// whoever waits looks again.
constexpr std::int64_t kTurnPatienceNs = 5'000'000;

Status refused(const std::string& why) {
  return Status::Error(Code::kInternal, "not a turn board of this build: " + why);
}

}  // namespace

// ---- life

Result<std::shared_ptr<TurnBoard>> TurnBoard::create(const std::string& device) {
  auto memory = SharedMemory::create("gslice-turns:" + device, sizeof(TurnBoardHeader));
  if (!memory.ok()) return Status::Error(Code::kInternal, "turn board: " + memory.status().message);
  std::shared_ptr<TurnBoard> board(new TurnBoard(memory.take()));
  board->header_ = new (board->memory_.base()) TurnBoardHeader;
  TurnBoardHeader& header = *board->header_;
  std::random_device random;
  header.magic = kTurnBoardMagic;
  header.version = kTurnBoardVersion;
  header.board_bytes = sizeof(TurnBoardHeader);
  header.generation = std::uint64_t{random()} << 32 | random();
  int error = FunctionLock::initialise(header.lock);
  for (TurnEntry& entry : header.entries)
    if (error == 0) error = FunctionLock::initialise(entry.presence);
  if (error != 0)
    return Status::Error(Code::kInternal,
                         "turn board: robust mutex: " + std::string(std::strerror(error)));
  return board;
}

Result<std::shared_ptr<TurnBoard>> TurnBoard::open(int fd) {
  auto memory = SharedMemory::open(fd, sizeof(TurnBoardHeader));
  if (!memory.ok()) return refused(memory.status().message);
  std::shared_ptr<TurnBoard> board(new TurnBoard(memory.take()));
  board->header_ = std::launder(reinterpret_cast<TurnBoardHeader*>(board->memory_.base()));
  const TurnBoardHeader& header = *board->header_;
  if (header.magic != kTurnBoardMagic) return refused("wrong magic");
  if (header.version != kTurnBoardVersion)
    return refused("layout version " + std::to_string(header.version) + ", expected " +
                   std::to_string(kTurnBoardVersion));
  if (header.board_bytes != sizeof(TurnBoardHeader)) return refused("another size");
  return board;
}

// ---- granting

std::uint32_t TurnBoard::used() const {
  return std::min(header_->used.load(), static_cast<std::uint32_t>(kMaxTurns));
}

// Earliest deadline first, and nobody passes the head: a large share would wait for ever behind
// small ones. An instance may always run alone, whatever its share.
void TurnBoard::grant(std::int64_t now, Rung& rung) {
  const std::uint64_t limit_ppm = header_->limit_ppm.load();
  if (limit_ppm == 0) return;
  for (std::size_t grants = 0; grants < kMaxTurns; ++grants) {
    std::uint64_t running_ppm = 0;
    bool any_runs = false;
    std::uint32_t head = kNoTurn;
    std::pair<std::int64_t, std::int64_t> earliest;
    for (std::uint32_t i = 0; i < used(); ++i) {
      const TurnState state = entry(i).state.load();
      if (state == TurnState::kRunning) {
        any_runs = true;
        running_ppm += entry(i).share_ppm.load();
      } else if (state == TurnState::kWaiting) {
        const std::pair due{entry(i).due_ns.load(), entry(i).asked_ns.load()};
        if (head != kNoTurn && due >= earliest) continue;
        head = i;
        earliest = due;
      }
    }
    if (head == kNoTurn) return;
    if (any_runs && running_ppm + entry(head).share_ppm.load() > limit_ppm) return;
    entry(head).granted_ns.store(now);
    TurnState waiting = TurnState::kWaiting;  // unless it was given back at this very moment
    if (entry(head).state.compare_exchange(waiting, TurnState::kRunning)) rung.set(head);
  }
}

void TurnBoard::share_out(std::int64_t now, std::uint32_t asking) {
  Rung rung;
  {
    const FunctionLock lock(header_->lock, kTurnPatienceNs);
    if (!lock.held()) return;
    grant(now, rung);
  }
  if (rung.none()) return;
  for (std::uint32_t i = 0; i < used(); ++i)
    if (rung.test(i) && i != asking) ring(i);
}

bool TurnBoard::ask(std::uint32_t index, std::int64_t due_ns, std::int64_t now) {
  TurnEntry& mine = entry(index);
  mine.due_ns.store(due_ns);
  mine.asked_ns.store(now);
  mine.state.store(TurnState::kWaiting);
  share_out(now, index);
  return granted(index);
}

bool TurnBoard::change_due(std::uint32_t index, std::int64_t due_ns, std::int64_t now) {
  entry(index).due_ns.store(due_ns);
  share_out(now, index);
  return granted(index);
}

void TurnBoard::give_back(std::uint32_t index) {
  entry(index).state.store(TurnState::kIdle);
  share_out(now_ns());
}

void TurnBoard::look(std::uint32_t index, std::int64_t now) {
  {
    const FunctionLock lock(header_->lock, kTurnPatienceNs);
    if (!lock.held()) return;
    for (std::uint32_t i = 0; i < used(); ++i) {
      const TurnState state = entry(i).state.load();
      if (i != index && (state == TurnState::kWaiting || state == TurnState::kRunning) &&
          presence::take_death(entry(i).presence))
        entry(i).state.store(TurnState::kIdle);
    }
  }
  share_out(now, index);
}

// ---- bells

void TurnBoard::ring(std::uint32_t index) {
  entry(index).bell.fetch_add(1);
  futex_wake(entry(index).bell);
}

std::uint32_t TurnBoard::await_ring(std::uint32_t index, std::uint32_t seen) {
  Shared<std::uint32_t>& bell = entry(index).bell;
  std::uint32_t now = bell.load();
  for (; now == seen; now = bell.load()) futex_wait(bell, seen, kNever);
  return now;
}

// ---- the daemon

void TurnBoard::set_limit(std::uint32_t limit_ppm) {
  if (header_->limit_ppm.exchange(limit_ppm) == limit_ppm) return;
  share_out(now_ns());
  for (std::uint32_t i = 0; i < used(); ++i)
    if (entry(i).state.load() != TurnState::kAbsent) ring(i);
}

Result<std::uint32_t> TurnBoard::add(std::uint64_t segment, std::uint32_t instance,
                                     std::int32_t pid, std::uint32_t share_ppm) {
  for (std::uint32_t i = 0; i < kMaxTurns; ++i) {
    TurnEntry& free = entry(i);
    if (free.state.load() != TurnState::kAbsent) continue;
    presence::take_death(free.presence);
    free.segment = segment;
    free.instance = instance;
    free.pid = pid;
    free.share_ppm.store(share_ppm);
    free.state.store(TurnState::kIdle);
    header_->used.store(std::max(used(), i + 1));
    return i;
  }
  return Status::Error(Code::kResourceExhausted,
                       "the device's turn board has no place for another instance");
}

void TurnBoard::remove(std::uint32_t index) {
  entry(index).state.store(TurnState::kAbsent);
  share_out(now_ns());
}

void TurnBoard::set_share(std::uint32_t index, std::uint32_t share_ppm) {
  entry(index).share_ppm.store(share_ppm);
  share_out(now_ns());
}

}  // namespace gslice
