"""Stand-ins for a GPU do all that a driver can do to its clients, for minutes, under load."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.fakes.gpu import FakeGpu
from tests.node import Node, kill_and_wait
from tests.process.drills import replace_daemon
from tests.process.gpu import MPS, meet, on_gpu
from tests.process.traffic import Traffic

SECONDS = float(os.environ.get("GSLICE_SOAK_SECONDS") or 180)
PAUSE_S = (2.0, 8.0)  # five deaths of one instance in a minute would fail its function, rightly
FUNCTIONS = {"a": 2, "b": 2}
"""Function -> instances."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 900)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A machine that minds no client that is killed over its work."""
    with FakeGpu() as machine:
        meet(machine, monkeypatch)
        yield machine
        assert machine.processes() == []
        assert machine.violations() == []


class Blows:
    """What befalls the node; after each it is as it was.

    Args:
        node: The node.
        fake: Its machine.
        seed: Of all that is left to chance.
    """

    def __init__(self, node: Node, fake: FakeGpu, seed: int) -> None:
        self._node, self._fake = node, fake
        self._chance = random.Random(seed)
        self._all: dict[str, Callable[[], object]] = {
            "h2d faults": partial(self._fault, "h2d", 700),
            "d2h faults": partial(self._fault, "d2h", 719),
            "a lane hangs": self._hang,
            "a worker is killed": self._kill,
            "the daemon is killed": partial(replace_daemon, node),
            "all workers are renewed": self._renew,
        }
        self.done: Counter[str] = Counter()

    def strike(self) -> None:
        name = self._chance.choice(list(self._all))
        self._all[name]()
        self.done[name] += 1
        self._settle()

    def _fault(self, on: str, code: int) -> None:
        before = self._workers()
        self._fake.fail(on, code, total=1)
        self._node.wait_status(lambda s: not before & _workers(s))
        self._fake.clear_plan()

    def _hang(self) -> None:
        before = self._workers()
        with self._fake.hold("d2h", total=1):
            self._node.wait_status(lambda s: bool(before - _workers(s)))
        self._fake.clear_plan()

    def _kill(self) -> None:
        kill_and_wait(self._chance.choice(sorted(self._workers())))

    def _renew(self) -> None:
        before = self._workers()
        with self._node.control() as control:
            assert list(control.upgrade(workers=True))[-1].name == "done"
        assert not before & self._workers()

    def _workers(self) -> set[int]:
        return _workers(self._node.status())

    def _settle(self) -> None:
        self._node.wait_status(
            lambda s: all(
                f.state == "READY" and [w.state for w in f.workers] == ["READY"] * FUNCTIONS[f.name]
                for f in s.functions
            )
        )


def _workers(status: object) -> set[int]:
    return {worker.pid for f in status.functions for worker in f.workers}  # type: ignore[attr-defined]


def test_a_driver_that_does_all_it_can(fake: FakeGpu, start_node, seed: int, say) -> None:
    bodies = {name: on_gpu(share="40%", instances=count) for name, count in FUNCTIONS.items()}
    node = start_node(bodies, devices=MPS, node={"hang_timeout": "2s", "connection_age": "500ms"})
    blows, chance, pace = Blows(node, fake, seed), random.Random(seed), threading.Event()
    with Traffic(node, "a", clients=3) as one, Traffic(node, "b", clients=3) as two:
        ends_s = time.monotonic() + SECONDS
        while time.monotonic() < ends_s:
            pace.wait(chance.uniform(*PAUSE_S))
            for traffic in (one, two):
                traffic.wait_answers(20)
            blows.strike()
        for traffic in (one, two):
            traffic.wait_answers(20)
    say(f"{dict(blows.done)}; {one.sent + two.sent} requests")
    one.assert_each_answered_once()
    two.assert_each_answered_once()
