"""Turn boards as the daemon keeps them: who is on them, and when turns begin and end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice._native import Segment, TurnBoard
from gslice.core.errors import FailedPrecondition, Internal, InvalidArgument
from gslice.core.types import FunctionSpec, ProgramSpec, ShareBounds
from gslice.supervise.instances import Instances
from gslice.supervise.turn_board import TurnBoards
from tests.unit.function_bench import Running, add, make_supervisor, serves

PROGRAM = ProgramSpec(("sleep", "1000"))


def worker(turn: int, share_percent: float = 0.0) -> Any:
    return SimpleNamespace(
        turn=turn,
        instance=0,
        pid=7,
        device="cpu",
        share_percent=share_percent,
        threads=0,
        limiter="cgroup",
        hosted=False,
    )


# ---- boards ------------------------------------------------------------------------------------


def test_a_board_shows_who_is_on_it() -> None:
    board = TurnBoard.create("cpu")
    entry = board.add(5, 2, os.getpid(), 33.3)
    shown = board.entries()[entry]
    assert (shown["segment"], shown["instance"], shown["pid"]) == (5, 2, os.getpid())
    assert (shown["state"], shown["share_percent"]) == ("idle", pytest.approx(33.3, abs=1e-3))
    assert not board.waits(entry)
    board.remove(entry)
    assert board.entries() == {}
    with pytest.raises(InvalidArgument, match="no entry 1024; there are 1024"):
        board.remove(1024)


def test_a_limit_is_on_or_off() -> None:
    board = TurnBoard.create("cpu")
    assert board.limit_percent is None
    board.set_limit(80)
    assert TurnBoard.open(board.fd).limit_percent == 80
    board.set_limit(0)  # whatever comes runs alone
    assert board.limit_percent is not None
    board.set_limit(None)
    assert board.limit_percent is None


def test_what_is_no_board_is_refused() -> None:
    segment = Segment.create("a", [(1 << 16, 4)], 1 << 16, 1)
    with pytest.raises(Internal, match="not a turn board of this build: wrong magic"):
        TurnBoard.open(segment.fd)


# ---- adoption ----------------------------------------------------------------------------------


def test_the_board_of_an_earlier_daemon_goes_on_without_the_dead() -> None:
    earlier = TurnBoard.create("cpu")
    earlier.set_limit(90)
    dead, living = earlier.add(1, 0, 1, 60), earlier.add(1, 1, 2, 60)
    boards = TurnBoards()
    boards.adopt("cpu", earlier.fd)
    boards.adopt("cpu", earlier.fd)  # another worker's
    boards.keep([("cpu", worker(living)), ("cuda:0", worker(dead))])
    assert list(boards.of("cpu").entries()) == [living]
    assert boards.of("cpu").limit_percent == 90
    assert boards.of("cuda:0").entries() == {}


def test_a_worker_with_another_board_cannot_be_adopted() -> None:
    boards, one, other = TurnBoards(), TurnBoard.create("cpu"), TurnBoard.create("cpu")
    boards.adopt("cpu", one.fd)
    with pytest.raises(FailedPrecondition, match="device cpu has another turn board"):
        boards.adopt("cpu", other.fd)
    assert boards.of("cpu").generation == one.generation


# ---- workers -----------------------------------------------------------------------------------


def test_a_share_that_grows_counts_before_it_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = make_supervisor(tmp_path, []).node
        instances = Instances(node, FunctionSpec("a"), None, lambda *_: None)
        board = node.turn_boards.of("cpu")
        one, seen = worker(board.add(1, 0, 7, 40), 40), []

        async def set_share(share_percent: float) -> None:
            seen.append(board.entries()[one.turn]["share_percent"])
            one.share_percent = share_percent

        one.set_share = set_share
        for share in (60, 20):
            await instances.set_share(one, share)
            assert board.entries()[one.turn]["share_percent"] == share
        assert seen == [60, 60]

    asyncio.run(scenario())


# ---- the controller's hook ---------------------------------------------------------------------


def test_shares_over_commit_a_device_only_where_functions_take_turns(tmp_path: Path) -> None:
    async def scenario() -> None:
        events: list[str] = []
        supervisor = make_supervisor(tmp_path, events)
        board = supervisor.node.turn_boards.of("cpu")
        functions = [add(supervisor, FunctionSpec(n, share=ShareBounds())) for n in "abcd"]
        decided = {"a": 60.0, "b": 60.0, "c": 60.0}  # of d nobody knows anything

        def granted() -> list[float]:
            return [function.share_granted_percent for function in functions]

        await supervisor.sharing.follow(decided)
        assert granted() == [25, 25, 25, 25]
        await supervisor.sharing.follow(decided, {"cpu"})
        assert granted() == [60, 60, 60, 25]
        assert board.limit_percent == 100
        assert events == ["device cpu: its functions take turns, 100% at once"]
        await supervisor.sharing.follow(decided, ["cpu"])  # nothing new
        assert len(events) == 1

        # A worker has what it had until a shadow has taken its place.
        for function in functions[:2]:
            running: Any = serves(function, Running(function.spec))
            running.workers = [worker(0, function.share_granted_percent)]
            running.instances = SimpleNamespace(pulls=lambda worker: True)
        await supervisor.sharing.follow({"a": 30.0})
        assert granted() == [25, 25, 25, 25]
        assert board.limit_percent == 100
        functions[0].deployment.workers[0].share_percent = 25  # type: ignore[union-attr]
        await supervisor.sharing.follow({"a": 30.0})
        assert board.limit_percent is None
        assert events[-1] == "device cpu: its functions take no turns any more"

    asyncio.run(scenario())


def test_a_command_runs_all_the_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        share = ShareBounds(30, 30, auto=False)
        add(supervisor, FunctionSpec("job", engine="command", share=share, program=PROGRAM))
        function = add(supervisor, FunctionSpec("a"))
        await supervisor.sharing.follow({"a": 80.0}, {"cpu"})
        await supervisor.sharing.follow({"a": 80.0}, {"cpu"})
        assert supervisor.node.turn_boards.of("cpu").limit_percent == 70
        assert function.share_granted_percent <= 80

    asyncio.run(scenario())
