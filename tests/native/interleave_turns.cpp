// The turn board under every schedule of a few pumps and the daemon: what runs at any instant fits,
// and nobody waits while there is room. Nobody looks by itself here: a ring that is lost is found.
#include "interleave.hpp"
#include "segment_fixture.hpp"
#include "turns/board.hpp"

using namespace gslice;
using namespace gslice::test;
using interleave::Exploration;
using interleave::explore;
using interleave::World;

namespace {

constexpr std::uint32_t percent(std::uint32_t share) { return share * (kWholePpm / 100); }

// A board of which every schedule gets a fresh one.
struct Board {
  Board() {
    auto created = TurnBoard::create("cpu");
    CHECK(created.ok());
    board = created.take();
  }
  void restart(const std::vector<std::uint32_t>& shares_percent) {
    TurnBoardHeader& header = board->header();
    header.limit_ppm.store(percent(100));
    header.used.store(0);
    for (TurnEntry& entry : header.entries) entry.state.store(TurnState::kAbsent);
    for (const std::uint32_t share : shares_percent)
      CHECK(board->add(1, 0, 0, percent(share)).ok());
    shares = shares_percent;
    runs.assign(shares.size(), false);
  }

  // As a pump does: one batch, as soon as it may.
  void run_batch(std::uint32_t index, std::int64_t due_ns) {
    std::uint32_t heard = board->entry(index).bell.load();
    if (board->on() && !board->ask(index, due_ns, due_ns))
      while (board->on() && !board->granted(index)) heard = board->await_ring(index, heard);
    if (!board->granted(index)) return;
    runs[index] = true;
    std::uint32_t running_percent = 0;
    for (std::size_t i = 0; i < shares.size(); ++i)
      if (runs[i]) running_percent += shares[i];
    interleave::require(running_percent <= 100, "more runs than there is");
    schedule_point();
    runs[index] = false;
  }

  std::shared_ptr<TurnBoard> board;
  std::vector<std::uint32_t> shares;
  std::vector<bool> runs;
};

void holds_always(const char* what, int preemptions, const std::vector<std::uint32_t>& shares,
                  const std::function<void(World&, Board&)>& scenario) {
  Board board;
  const Exploration done = explore({.preemptions = preemptions}, [&](World& world) {
    board.restart(shares);
    scenario(world, board);
  });
  std::cout << what << ": " << done.schedules << " schedules" << std::endl;
  CHECK_EQ(done.failure, "");
  CHECK(done.complete);
  CHECK(done.schedules > 50);
}

}  // namespace

TEST(every_turn_that_is_given_back_is_passed_on) {
  holds_always("turns", 2, {60, 60, 30}, [](World& world, Board& b) {
    for (std::uint32_t i = 0; i < 3; ++i)
      world.fiber([&b, i] {
        b.run_batch(i, 3 - i);
        b.board->give_back(i);
      });
    CHECK(world.run());
  });
}

TEST(whoever_asks_anew_passes_its_turn_on) {
  holds_always("turns/again", 2, {60, 60}, [](World& world, Board& b) {
    for (std::uint32_t i = 0; i < 2; ++i)
      world.fiber([&b, i] {
        b.run_batch(i, 1 + i);
        b.run_batch(i, 2 - i);
        b.board->give_back(i);
      });
    CHECK(world.run());
  });
}

TEST(the_turn_of_the_dead_is_passed_on) {
  holds_always("turns/death", 2, {60, 60}, [](World& world, Board& b) {
    world.fiber([&b] { b.board->ask(0, 1, 1); });
    world.fiber([&b] { b.board->remove(0); });
    world.fiber([&b] {
      b.run_batch(1, 2);
      b.board->give_back(1);
    });
    // Had it asked after its removal, it would not be dead.
    interleave::require(world.run() || b.board->granted(0), "stuck");
  });
}

TEST(nobody_waits_once_turns_are_off) {
  holds_always("turns/off", 3, {60, 60}, [](World& world, Board& b) {
    world.fiber([&b] { b.run_batch(0, 1); });  // and keeps what it has
    world.fiber([&b] { b.run_batch(1, 2); });
    world.fiber([&b] { b.board->set_limit(0); });
    CHECK(world.run());
  });
}

TEST(a_share_that_shrinks_against_a_turn_that_ends) {
  holds_always("turns/share", 2, {60, 60}, [](World& world, Board& b) {
    world.fiber([&b] {
      b.run_batch(0, 1);
      b.board->give_back(0);
    });
    world.fiber([&b] {
      b.shares[1] = 40;  // counts for less than it had
      b.board->set_share(1, percent(40));
    });
    world.fiber([&b] {
      b.run_batch(1, 2);
      b.board->give_back(1);
    });
    CHECK(world.run());
  });
}

// From one pump's board to the doorbell of another, which sleeps on that alone.
TEST(a_granted_turn_reaches_the_pump_that_sleeps) {
  const Fixture made(spec_of({{kPage, 1}}, 0));
  Board b;
  const Exploration done = explore({.preemptions = 2}, [&](World& world) {
    Fixture f = made;
    b.restart({60, 60});
    const std::uint32_t heard_first = b.board->entry(1).bell.load();
    bool ran = false;
    world.fiber([&] {
      b.run_batch(0, 1);
      b.board->give_back(0);
    });
    world.background([&] {  // the listener
      for (std::uint32_t heard = heard_first;;) {
        heard = b.board->await_ring(1, heard);
        f->ring(f.instance);
      }
    });
    world.fiber([&] {
      bool asked = false;
      while (!ran) {
        const std::uint32_t bell = f->doorbell(f.instance);
        ran = asked ? b.board->granted(1) : b.board->ask(1, 2, 2);
        asked = true;
        if (!ran) f->wait(f.instance, bell, kNever);
      }
      b.board->give_back(1);
    });
    CHECK(world.run());
  });
  std::cout << "turns/doorbell: " << done.schedules << " schedules" << std::endl;
  CHECK_EQ(done.failure, "");
  CHECK(done.complete);
}
