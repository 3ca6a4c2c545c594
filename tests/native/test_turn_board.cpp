// The turn board: who gets the next turn, what fits, and that nobody waits for the dead.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <random>
#include <thread>

#include "check.hpp"
#include "segment/lock.hpp"
#include "turns/board.hpp"
#include "turns/turn.hpp"

using namespace gslice;

namespace {

constexpr std::uint32_t percent(std::uint32_t share) { return share * (kWholePpm / 100); }

struct Bench {
  explicit Bench(std::uint32_t limit_percent = 100) {
    auto created = TurnBoard::create("cpu");
    CHECK(created.ok());
    board = created.take();
    board->set_limit(percent(limit_percent));
  }
  std::uint32_t add(std::uint32_t share_percent) {
    auto added = board->add(1, instances++, getpid(), percent(share_percent));
    CHECK(added.ok());
    return added.value();
  }
  TurnState state(std::uint32_t index) { return board->entry(index).state.load(); }
  bool rung(std::uint32_t index) { return board->entry(index).bell.load() > 0; }
  bool ask(std::uint32_t index, std::int64_t due_ns) { return board->ask(index, due_ns, due_ns); }

  std::shared_ptr<TurnBoard> board;
  std::uint32_t instances = 0;
};

// A child that does `work` on the board and is killed in the middle of what follows.
void die_after(const std::function<void()>& work) {
  int told[2];
  CHECK_EQ(pipe(told), 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    work();
    const bool said = write(told[1], "", 1) == 1;
    while (said) pause();
    _exit(1);
  }
  char byte = 0;
  CHECK_EQ(read(told[0], &byte, 1), 1);
  kill(child, SIGKILL);
  CHECK_EQ(waitpid(child, nullptr, 0), child);
  close(told[0]);
  close(told[1]);
}

}  // namespace

// ---- who is next

TEST(what_is_due_first_goes_first) {
  Bench bench;
  const std::uint32_t holder = bench.add(60), a = bench.add(60), b = bench.add(60),
                      c = bench.add(60);
  CHECK(bench.ask(holder, 9));
  CHECK(!bench.rung(holder));  // whoever gets it by asking needs no bell
  CHECK(!bench.ask(a, 3));
  CHECK(!bench.ask(b, 1));
  CHECK(!bench.ask(c, 2));
  for (const std::uint32_t next : {b, c, a}) {
    CHECK(bench.state(next) == TurnState::kWaiting && !bench.rung(next));
    bench.board->give_back(bench.state(b) == TurnState::kRunning   ? b
                           : bench.state(c) == TurnState::kRunning ? c
                                                                   : holder);
    CHECK(bench.state(next) == TurnState::kRunning && bench.rung(next));
  }
}

TEST(shares_that_fit_run_together_and_nobody_passes_the_head) {
  Bench bench(90);
  const std::uint32_t half = bench.add(50), third = bench.add(30), large = bench.add(60),
                      small = bench.add(10);
  CHECK(bench.ask(half, 1));
  CHECK(bench.ask(third, 2));
  CHECK(!bench.ask(large, 3));
  CHECK(!bench.ask(small, 4));  // it would fit, and the large one would wait for ever
  bench.board->give_back(half);
  CHECK(bench.state(large) == TurnState::kRunning);
  CHECK(bench.state(small) == TurnState::kWaiting);  // 30 + 60 is all there is
  bench.board->give_back(third);
  CHECK(bench.state(small) == TurnState::kRunning);
}

TEST(a_share_beyond_the_limit_runs_alone) {
  Bench bench(50);
  const std::uint32_t large = bench.add(80), small = bench.add(10);
  CHECK(bench.ask(small, 1));
  CHECK(!bench.ask(large, 2));
  bench.board->give_back(small);
  CHECK(bench.state(large) == TurnState::kRunning);
  CHECK(!bench.ask(small, 3));
}

TEST(asking_again_ends_a_turn_in_the_same_step) {
  Bench bench;
  const std::uint32_t a = bench.add(60), b = bench.add(60);
  CHECK(bench.ask(a, 1));
  CHECK(bench.ask(a, 5));  // nobody else wants it
  CHECK(!bench.ask(b, 6));
  CHECK(bench.ask(a, 5));  // still due first
  CHECK(!bench.ask(a, 7));
  CHECK(bench.state(b) == TurnState::kRunning && bench.rung(b));
}

TEST(urgency_changes_while_it_waits) {
  Bench bench;
  const std::uint32_t holder = bench.add(100), a = bench.add(100), b = bench.add(100);
  CHECK(bench.ask(holder, 0));
  CHECK(!bench.ask(a, 2));
  CHECK(!bench.ask(b, 3));
  CHECK(!bench.board->change_due(b, 1, 0));
  bench.board->give_back(holder);
  CHECK(bench.state(b) == TurnState::kRunning);
  bench.board->give_back(b);
  CHECK(bench.state(a) == TurnState::kRunning);
}

TEST(a_share_that_shrinks_lets_others_in) {
  Bench bench;
  const std::uint32_t a = bench.add(60), b = bench.add(60);
  CHECK(bench.ask(a, 1));
  CHECK(!bench.ask(b, 2));
  bench.board->set_share(b, percent(40));
  CHECK(bench.state(b) == TurnState::kRunning && bench.rung(b));
}

// ---- on and off

TEST(switching_rings_everybody) {
  Bench bench;
  const std::uint32_t a = bench.add(60), b = bench.add(60);
  CHECK(bench.ask(a, 1));
  CHECK(!bench.ask(b, 2));
  bench.board->set_limit(0);
  CHECK(!bench.board->on());
  CHECK(bench.rung(a) && bench.rung(b));
  bench.board->set_limit(percent(100));
  CHECK(bench.state(b) == TurnState::kWaiting);  // a counts on
  bench.board->set_limit(percent(120));
  CHECK(bench.state(b) == TurnState::kRunning);
}

TEST(what_ran_before_counts) {
  Bench bench;
  const std::uint32_t a = bench.add(60), b = bench.add(60);
  bench.board->run_anyway(a);
  CHECK(!bench.ask(b, 1));
  bench.board->give_back(a);
  CHECK(bench.state(b) == TurnState::kRunning);
}

// ---- deaths

TEST(the_daemon_frees_the_turn_of_the_dead) {
  Bench bench;
  const std::uint32_t dead = bench.add(60), heir = bench.add(60);
  die_after([&] { bench.ask(dead, 1); });
  CHECK(!bench.ask(heir, 2));
  bench.board->remove(dead);
  CHECK(bench.state(heir) == TurnState::kRunning && bench.rung(heir));
  CHECK_EQ(bench.add(10), dead);  // its entry is free
}

// Of one that runs, and of one that would be next.
TEST(without_a_daemon_whoever_waits_finds_the_dead) {
  Bench bench;
  const std::uint32_t first = bench.add(60), second = bench.add(60), heir = bench.add(60);
  die_after([&] {
    CHECK(presence::begin(bench.board->entry(first).presence));
    bench.ask(first, 1);
  });
  die_after([&] {
    CHECK(presence::begin(bench.board->entry(second).presence));
    bench.ask(second, 2);
  });
  CHECK(!bench.ask(heir, 3));
  bench.board->look(heir, 4);
  CHECK(bench.state(first) == TurnState::kIdle && bench.state(second) == TurnState::kIdle);
  CHECK(bench.state(heir) == TurnState::kRunning && !bench.rung(heir));
}

TEST(the_living_keep_their_turns) {
  Bench bench;
  const std::uint32_t holder = bench.add(60), waiting = bench.add(60);
  std::thread([&] {
    Turn turn;
    CHECK(turn.join(bench.board, holder).ok());
    turn.begin();
    CHECK_EQ(turn.ask(1, 1), 0);
    std::thread([&] {
      CHECK(!bench.ask(waiting, 2));
      bench.board->look(waiting, 3);
      CHECK(bench.state(waiting) == TurnState::kWaiting);
    }).join();
    turn.end();
  }).join();
  CHECK(bench.state(waiting) == TurnState::kRunning);
}

TEST(the_lock_of_the_dead_stops_nobody) {
  Bench bench;
  const std::uint32_t a = bench.add(60), b = bench.add(60);
  CHECK(bench.ask(a, 1));
  CHECK(!bench.ask(b, 2));
  die_after([&] {
    bench.board->entry(a).state.store(TurnState::kIdle);
    CHECK_EQ(pthread_mutex_lock(&bench.board->header().lock), 0);
  });
  bench.board->look(b, 3);
  CHECK(bench.state(b) == TurnState::kRunning);
}

// ---- what is shared

TEST(another_process_sees_the_same_board) {
  Bench bench;
  const std::uint32_t a = bench.add(60);
  auto opened = TurnBoard::open(bench.board->fd());
  CHECK(opened.ok());
  CHECK_EQ(opened.value()->header().generation, bench.board->header().generation);
  CHECK(opened.value()->on());
  CHECK(opened.value()->ask(a, 1, 1));
  CHECK(bench.board->granted(a));
}

TEST(what_is_no_board_is_refused) {
  const auto opens = [](std::size_t bytes, auto spoil) {
    Bench bench;
    const int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    spoil(bench.board->header());
    CHECK_EQ(write(fd, &bench.board->header(), bytes), static_cast<ssize_t>(bytes));
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    const bool ok = TurnBoard::open(fd).ok();
    close(fd);
    return ok;
  };
  constexpr std::size_t kAll = sizeof(TurnBoardHeader);
  CHECK(opens(kAll, [](TurnBoardHeader&) {}));
  CHECK(!opens(kAll - 1, [](TurnBoardHeader&) {}));
  CHECK(!opens(kAll, [](TurnBoardHeader& header) { ++header.magic; }));
  CHECK(!opens(kAll, [](TurnBoardHeader& header) { ++header.version; }));
  CHECK(!opens(kAll, [](TurnBoardHeader& header) { ++header.board_bytes; }));
  CHECK(!TurnBoard::open(-1).ok());
}

TEST(a_full_board_says_so) {
  Bench bench;
  for (std::size_t i = 0; i < kMaxTurns; ++i) bench.add(1);
  CHECK(bench.board->add(1, 0, 0, 0).status().code == Code::kResourceExhausted);
  bench.board->remove(7);
  CHECK_EQ(bench.add(1), 7u);
}

// ---- many at once

// Random shares, deadlines and pauses. Nobody looks by itself, so a lost wake-up would last for
// ever, and the sum is checked by what runs, not by what the board says.
TEST(never_more_than_the_limit_and_nobody_is_forgotten) {
  constexpr std::uint32_t kLimitPercent = 100;
  constexpr int kPumps = 6, kBatches = 400;
  Bench bench(kLimitPercent);
  std::atomic<std::uint32_t> running_percent{0};
  std::vector<std::thread> pumps;
  for (int pump = 0; pump < kPumps; ++pump) {
    std::mt19937 random(static_cast<std::uint32_t>(pump));
    const std::uint32_t share = 15 + random() % 60, index = bench.add(share);
    pumps.emplace_back([&, random, share, index]() mutable {
      std::atomic<std::uint32_t> bell{0};
      Turn turn;
      CHECK(turn.join(bench.board, index).ok());
      CHECK(turn.listen(
                    [&] {
                      bell.fetch_add(1);
                      bell.notify_one();
                    },
                    false)
                .ok());
      turn.begin();
      for (int batch = 0; batch < kBatches; ++batch) {
        const std::int64_t due_ns = now_ns() + static_cast<std::int64_t>(random() % 100'000);
        for (std::uint32_t seen = bell.load(); turn.ask(due_ns, now_ns()) != 0; seen = bell.load())
          bell.wait(seen);
        CHECK(running_percent.fetch_add(share) + share <= kLimitPercent);
        turn.use();
        for (std::uint32_t i = random() % 3; i > 0; --i) std::this_thread::yield();
        running_percent.fetch_sub(share);
        if (random() % 2 == 0) turn.give_back();
        if (random() % 4 == 0) std::this_thread::yield();
      }
      turn.end();
    });
  }
  for (std::thread& pump : pumps) pump.join();
  for (std::uint32_t i = 0; i < kPumps; ++i) CHECK(bench.state(i) == TurnState::kIdle);
}
