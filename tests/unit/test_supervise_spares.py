"""The pool of spares, with children that are none: how many, when, for whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.errors import ChannelClosed, Unavailable
from gslice.core.events import EventKind
from gslice.core.types import FunctionSpec
from gslice.ipc.messages import Assign, Ok, Prepare
from gslice.supervise import spares
from gslice.supervise.node import Changes
from gslice.supervise.spares import Spares, fits, wanted

SPEC = FunctionSpec("f", model="/f.onnx")
GIVEN_UP_US = 60_000_000


class FakeChild:
    """A child that does as it is told until it is dead."""

    def __init__(self, pid: int) -> None:
        death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.process = SimpleNamespace(pid=pid, death=death)
        self.orders: list[Any] = []
        self.closed = False
        self.holds = asyncio.Event()
        self.holds.set()

    async def request(self, order: Any, answer: type, *, fds: Any = (), timeout_s: float) -> Ok:
        await self.holds.wait()
        if self.closed:
            raise ChannelClosed("the control channel's peer is gone")
        for fd in fds:
            os.write(fd, b"a line of the worker\n")
        self.orders.append(order)
        return Ok()

    def die(self, how: str = "killed by SIGKILL") -> None:
        self.closed = True
        self.process.death.set_result(how)

    async def kill(self) -> None:
        if not self.process.death.done():
            self.die()

    abort = die


class Bench:
    """Spares over fake children, and a clock that the test turns."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
        self.started: list[FakeChild] = []
        self.events: list[tuple[str, EventKind, str]] = []
        self.engines: list[str] | None = []
        self.now_us = 0
        self.refuse = False
        node: Any = SimpleNamespace(
            users={},
            changes=Changes(),
            config=SimpleNamespace(spares=limit),
            log_path=lambda name: directory / f"{name}.log",
            event=lambda subject, kind, text: self.events.append((subject, kind, text)),
        )
        self.changes = node.changes
        self.spares = Spares(node)
        monkeypatch.setattr(spares, "start_process", self._start)
        monkeypatch.setattr(spares, "restore_child", lambda pid: None)
        clock = SimpleNamespace(monotonic_ns=lambda: self.now_us * 1000)
        monkeypatch.setattr(spares, "time", clock)

    async def _start(self, node: Any, log: Path, environment: Any, lowered: bool) -> FakeChild:
        assert lowered
        if self.refuse:
            raise Unavailable("gslice.worker exited with code 1 while starting")
        self.started.append(FakeChild(100 + len(self.started)))
        return self.started[-1]

    async def settle(self, engines: list[str] | None = None) -> None:
        """The daemon looks, until nothing is left to do."""
        if engines is not None:
            self.engines = engines
        self.changes.notify()
        for _ in range(50):
            await asyncio.sleep(0)

    @property
    def pids(self) -> list[int]:
        return [spare.pid for spare in self.spares.idle]

    @property
    def idle(self) -> list[str]:
        return [spare.engine for spare in self.spares.idle]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a test on a loop, with spares that are kept."""

    def run(test: Callable[[Bench], Awaitable[None]], limit: int | None = None) -> None:
        async def main() -> None:
            bench = Bench(tmp_path, monkeypatch, limit)
            keeping = asyncio.create_task(bench.spares.keep(lambda: bench.engines))
            try:
                await test(bench)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await bench.spares.close()
            assert all(child.closed or child.orders[1:] for child in bench.started)

        asyncio.run(main())

    return run


@pytest.mark.parametrize(
    ("engines", "limit", "goal"),
    [
        ([], None, {}),
        (["onnxruntime"] * 3, None, {"onnxruntime": 1}),
        (["python", "torch", "onnxruntime", "torch"], None, {"torch": 1, "python": 1}),
        (["onnxruntime"] * 3, 0, {}),
        (["onnxruntime"] * 3, 2, {"onnxruntime": 2}),
        (["onnxruntime"], 4, {"onnxruntime": 1}),
        (["python", "torch", "torch"], 4, {"torch": 2, "python": 1}),
        (["python", "torch", "torch"], 2, {"torch": 1, "python": 1}),
    ],
)
def test_how_many_of_each_engine(engines: list[str], limit: int | None, goal: dict) -> None:
    assert wanted(engines, limit) == goal


def test_whom_a_spare_fits() -> None:
    assert fits(SPEC, {})
    assert fits(SPEC, {"CUDA_VISIBLE_DEVICES": "GPU-1", "CUDA_MPS_CLIENT_PRIORITY": "0"})
    assert not fits(SPEC, {"CUDA_VISIBLE_DEVICES": "GPU-1", "LD_PRELOAD": "/a.so"})
    assert not fits(FunctionSpec("f", environment={"OMP_NUM_THREADS": "1"}), {})


def test_one_after_the_other_and_not_while_a_worker_is_on_its_way(bench) -> None:
    async def test(bench: Bench) -> None:
        bench.engines = None
        await bench.settle()
        assert bench.started == []
        await bench.settle(["onnxruntime", "python"])
        assert bench.idle == ["onnxruntime", "python"]
        assert [c.orders for c in bench.started] == [[Prepare("onnxruntime")], [Prepare("python")]]

    bench(test)


def test_a_function_takes_the_one_of_its_engine(bench, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["python", "onnxruntime"])
        bench.engines = None
        bound = {"CUDA_VISIBLE_DEVICES": "GPU-1"}
        child = await bench.spares.take(SPEC, bound)
        assert child is bench.started[1]
        assert bench.started[1].orders[1:] == [Assign(bound)]
        assert (tmp_path / "f.log").read_text() == "a line of the worker\n"
        assert (tmp_path / "f.log").stat().st_mode & 0o777 == 0o600
        assert bench.idle == ["python"]
        assert await bench.spares.take(SPEC, {}) is None
        await bench.settle()
        assert bench.idle == ["python"]  # the recovery is not over
        await bench.settle(["python", "onnxruntime"])
        assert bench.idle == ["python", "onnxruntime"]

    bench(test)


def test_whom_it_does_not_fit_leaves_it_alone(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime"])
        assert await bench.spares.take(FunctionSpec("f", environment={"A": "1"}), {}) is None
        assert await bench.spares.take(FunctionSpec("f", engine="torch"), {}) is None
        assert bench.idle == ["onnxruntime"]

    bench(test)


def test_one_that_is_dead_by_then_is_passed_over(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime"] * 2)
        bench.started[0].closed = True  # and its death is still to be noticed
        assert await bench.spares.take(SPEC, {}) is bench.started[1]
        assert bench.started[0].process.death.done()
        assert bench.idle == []

    bench(test, limit=2)


def test_a_start_that_is_given_up_leaves_none_behind(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime"])
        bench.started[0].holds.clear()
        taking = asyncio.create_task(bench.spares.take(SPEC, {}))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        assert bench.started[0].closed

    bench(test)


def test_one_that_dies_is_replaced_ever_later(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime"])
        for pause_us in (0, 100_000, 200_000, 400_000, GIVEN_UP_US):
            count = len(bench.started)
            bench.started[-1].die()
            await bench.settle()  # its death is noticed
            if pause_us:
                bench.now_us += pause_us - 1
                await bench.settle()
                assert len(bench.started) == count, pause_us
                bench.now_us += 1
                await bench.settle()
            assert len(bench.started) == count + 1, pause_us
        assert {event[:2] for event in bench.events} == {("spares", EventKind.CRASH)}
        assert bench.events[0][2] == "spare 100 for onnxruntime killed by SIGKILL"

    bench(test)


def test_one_that_does_not_start_holds_no_other_engine_up(bench) -> None:
    async def test(bench: Bench) -> None:
        bench.refuse = True
        await bench.settle(["onnxruntime"])
        bench.refuse = False
        assert "no spare for onnxruntime" in bench.events[-1][2]
        await bench.settle(["onnxruntime", "python"])
        assert bench.idle == ["python"]  # the other one has failed twice, and waits
        bench.now_us += GIVEN_UP_US
        await bench.settle()
        assert sorted(bench.idle) == ["onnxruntime", "python"]

    bench(test)


def test_those_too_many_are_ended(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime", "python", "python"])
        first = bench.started[bench.idle.index("python")]
        await bench.settle(["python"])
        assert bench.idle == ["python"]
        assert not first.closed
        await bench.settle([])
        assert bench.idle == []
        assert bench.events == []

    bench(test)


def test_after_the_end_there_are_none(bench) -> None:
    async def test(bench: Bench) -> None:
        await bench.settle(["onnxruntime"])
        await bench.spares.close()
        assert bench.started[0].closed
        await bench.settle()
        assert len(bench.started) == 1
        assert await bench.spares.take(SPEC, {}) is None

    bench(test)
