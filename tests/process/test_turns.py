"""Functions that take turns on a device which their shares over-commit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gslice._native import TurnBoard
from gslice.core.errors import Unavailable
from tests.node import WAIT_S, Node, in_background, kill_and_wait, wait_counts
from tests.process.traffic import Traffic

ONE = np.array([[1]], np.int64)
QUIET = {"controller": "off"}  # it would see that the shares that are set fit, and end the turns
_POLL_S = 0.002


def board_of(pid: int) -> TurnBoard:
    """The turn board of the CPU device, as a process has it."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if str(entry.readlink()).startswith("/memfd:gslice-turns:cpu"):
            fd = os.open(entry, os.O_RDWR)
            try:
                return TurnBoard.open(fd)
            finally:
                os.close(fd)
    raise AssertionError(f"process {pid} has no turn board")


def take_turns(node: Node, **shares_percent: float) -> TurnBoard:
    """Switches turns on, with shares that may over-commit the device."""
    pids = {node.worker_pids(name)[0]: share for name, share in shares_percent.items()}
    board = board_of(next(iter(pids)))
    for number, entry in board.entries().items():
        board.set_share(number, pids[entry["pid"]])
    board.set_limit(100)
    return board


def state_of(board: TurnBoard, pid: int) -> str:
    return next((e["state"] for e in board.entries().values() if e["pid"] == pid), "absent")


def wait_until(condition: Callable[[], bool]) -> None:
    """Shared memory has no event for it."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(_POLL_S)


def test_what_runs_at_once_fits_and_everybody_is_answered(start_node, zoo) -> None:
    shares = {"a": 60, "b": 60, "c": 40}
    node = start_node({name: zoo("Spans", share="30%") for name in shares}, node=QUIET)
    take_turns(node, **shares)

    def call(name: str) -> list[tuple[int, int, str]]:
        with node.client() as client:
            answers = [client.infer(name, {"x": ONE}) for _ in range(40)]
        return [(int(a["began_ns"].item()), int(a["ended_ns"].item()), name) for a in answers]

    calls = [in_background(lambda name=name: call(name)) for name in shares for _ in range(2)]
    spans = [span for each in calls for span in each.result(WAIT_S)]
    assert len(spans) == 240
    together = []
    for moment, _, _ in spans:
        running = {name for began, ended, name in spans if began <= moment < ended}
        together.append(sum(shares[name] for name in running))
    assert max(together) == 100  # a or b, and c beside it
    for name in shares:
        assert node.segment(name).stats()["stage"]["turn"]["count"] == 80


@pytest.mark.parametrize("daemon", ["runs", "is gone"])
def test_the_turn_of_a_killed_worker_is_free(start_node, zoo, gate, daemon) -> None:
    functions = {"gate": zoo("Gate", args={"gate": str(gate.path)}, share="30%")}
    node = start_node({**functions, "echo": zoo("Echo", share="30%")}, node=QUIET)
    board = take_turns(node, gate=60, echo=60)
    (holder,), (waits,) = node.worker_pids("gate"), node.worker_pids("echo")
    with node.client() as client:
        held = in_background(lambda: client.infer("gate", {"x": -ONE[0]}))
        wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
        assert state_of(board, holder) == "running"
        call = in_background(lambda: client.infer("echo", {"x": ONE}))
        wait_until(lambda: state_of(board, waits) == "waiting")
        if daemon == "is gone":
            node.kill_daemon()
        kill_and_wait(holder)
        assert call.result(WAIT_S)["y"].tolist() == [[1]]
        if daemon == "is gone":
            node.start()
            with pytest.raises(Unavailable, match="died while no daemon ran"):
                held.result(WAIT_S)
        else:
            gate.open()  # by the worker that took its place
            assert held.result(WAIT_S)["y"].tolist() == [-1]
        assert state_of(board, holder) == "absent"


def test_who_waits_for_long_does_not_hang(start_node, zoo) -> None:
    functions = {
        "busy": zoo("Spans", args={"takes_ms": 200}, share="30%", slo={"p99": "50ms"}),
        "patient": zoo("Echo", share="30%", slo={"p99": "60s"}),
    }
    node = start_node(functions, node={**QUIET, "hang_timeout": "1s"})
    board = take_turns(node, busy=60, patient=60)
    (waits,) = node.worker_pids("patient")
    client = node.client()
    with Traffic(node, "busy", output="began_ns", pace_s=0) as traffic:
        traffic.wait_answers(2)
        call = in_background(lambda: client.infer("patient", {"x": ONE}))
        wait_until(lambda: state_of(board, waits) == "waiting")
        began_s = time.monotonic()
        while time.monotonic() < began_s + 2.5:
            traffic.wait_answers(1)
            assert state_of(board, waits) == "waiting"  # the other is always due first
    assert call.result(WAIT_S)["y"].tolist() == [[1]]
    assert node.worker_pids("patient") == [waits]


def test_turns_outlive_the_daemon(start_node, zoo) -> None:
    functions = {name: zoo("Echo", share="30%") for name in ("a", "b")}
    node = start_node(functions, node=QUIET)
    board = take_turns(node, a=60, b=60)
    first, second = (node.worker_pids(name)[0] for name in functions)
    with Traffic(node, "b") as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        traffic.wait_answers(20)
        kill_and_wait(first)
        node.start()
        adopted = board_of(node.status().pid)
        assert adopted.generation == board.generation
        assert adopted.limit_percent is None  # the shares that are granted fit
        assert state_of(board, first) == "absent"
        kill_and_wait(second)
        traffic.wait_answers(20)
        node.wait_function("b", lambda f: [w.pid for w in f.workers] not in ([], [second]))
        assert state_of(board, node.worker_pids("b")[0]) != "absent"
    traffic.assert_each_answered_once()


def test_without_turns_nothing_waits(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", share="30%")}, node=QUIET)
    board = board_of(node.worker_pids("echo")[0])
    assert board.limit_percent is None
    with node.client() as client:
        assert client.infer("echo", {"x": ONE})["y"].tolist() == [[1]]
    assert [entry["state"] for entry in board.entries().values()] == ["idle"]
    assert node.segment("echo").stats()["stage"]["turn"]["count"] == 0
