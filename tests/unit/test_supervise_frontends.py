"""Front-ends that die: when the next one is started in their place."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import ConfigError
from gslice.supervise.doors import GRPC
from gslice.supervise.frontend import Frontend
from gslice.supervise.frontends import Frontends
from gslice.supervise.node import Node


class Bench:
    """Front-ends whose processes are futures; remembers how long each restart waited."""

    def __init__(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(state_dir)})
        node = Node.open(config.node, config.devices, lambda *event: None)
        self.frontends = Frontends(node, self._ignore, self._ignore, self._ignore)
        self.delays_s: list[float] = []
        self._started: asyncio.Queue[Frontend] = asyncio.Queue()
        monkeypatch.setattr(self.frontends, "start_one", self._start)
        monkeypatch.setattr("gslice.supervise.frontends.asyncio.sleep", self._sleep)

    async def die(self, index: int, served_s: float) -> None:
        """The front-end of a place dies after a time, and another is started."""
        (frontend,) = (f for f in self.frontends.all() if f.index == index)
        frontend.since_s = time.monotonic() - served_s
        frontend.child.process.death.set_result("killed by SIGKILL")  # type: ignore[attr-defined]
        await self._started.get()

    async def start(self, *indices: int) -> None:
        for index in indices:
            await self._start(GRPC, index)
            await self._started.get()

    async def _start(self, door: str, index: int) -> Frontend:
        assert door == GRPC
        process = SimpleNamespace(death=asyncio.get_running_loop().create_future())
        child: Any = SimpleNamespace(process=process)
        frontend = Frontend(index, child, os.eventfd(0), "serving")
        self.frontends._enter(frontend)
        self._started.put_nowait(frontend)
        return frontend

    async def _sleep(self, delay_s: float) -> None:
        self.delays_s.append(delay_s)

    def _ignore(self, *_: object) -> None:
        pass


Scenario = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Plays a scenario on a bench of its own."""
    return lambda scenario: asyncio.run(_played(tmp_path, monkeypatch, scenario))


async def _played(folder: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    await scenario(Bench(folder, monkeypatch))  # made on the loop that it is for


def test_one_that_has_served_for_a_while_comes_back_at_once(run) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start(0)
        for _ in range(8):
            await bench.die(0, served_s=10)
        assert bench.delays_s == [0] * 8

    run(scenario)


def test_a_crash_loop_backs_off_and_never_for_long(run) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start(0)
        for _ in range(7):
            await bench.die(0, served_s=1)
        assert bench.delays_s == [0, 0.1, 0.2, 0.4, 1, 1, 1]
        await bench.die(0, served_s=12)
        assert bench.delays_s[-1] == 0

    run(scenario)


def test_each_place_has_deaths_of_its_own(run) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.start(0, 1)
        for index in (0, 1, 0, 1):
            await bench.die(index, served_s=1)
        assert bench.delays_s == [0, 0, 0.1, 0.1]

    run(scenario)


def test_there_are_places_for_the_successors_of_all(run) -> None:
    """As many front-ends as a node may have, while each is on its way out or in."""

    async def scenario(bench: Bench) -> None:
        for _ in range(2 * 8):
            index = bench.frontends.free_index()
            assert index is not None
            await bench.start(index)
        assert bench.frontends.free_index() is None

    run(scenario)
    with pytest.raises(ConfigError, match="frontends"):
        load_config(None, environ={"GSLICE_NODE__FRONTENDS": "9"})
