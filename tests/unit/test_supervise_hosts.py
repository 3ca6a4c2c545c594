"""Children that share a process: an empty host, led as the daemon leads it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gslice.core.errors import ChannelClosed
from gslice.ipc.messages import HostState
from gslice.supervise.child import Child
from gslice.supervise.process import Launch, Process
from gslice.supervise.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    directory = RunDir(tmp_path / "run")
    yield directory
    left = directory.names()
    directory.close()
    assert left == []


async def start_host(run_dir: RunDir) -> Child:
    launch = Launch("gslice.worker", ("--host", "cuda:0"), run_dir.path.parent / "host.log")
    return await Child.start(run_dir, "h-1", launch, lambda child, received: None)


async def lodge(run_dir: RunDir, host: Child, name: str) -> Child:
    log = run_dir.path.parent / f"{name}.log"
    return await Child.lodge(run_dir, name, host, log, lambda child, received: None)


def test_one_leaves_and_the_others_stay_until_the_process_dies(run_dir: RunDir) -> None:
    async def scenario() -> None:
        host = await start_host(run_dir)
        one, two, three = [await lodge(run_dir, host, f"l-{n}") for n in (1, 2, 3)]
        assert one.hello.worker is not None
        assert one.hello.worker.hosted
        assert {each.process.pid for each in (one, two, three)} == {host.process.pid}
        assert run_dir.names() == ["h-1", "l-1", "l-2", "l-3"]
        await one.dismiss(10)
        assert one.process.death.result() == "ended"
        assert host.process.alive
        assert two.process.alive
        two.abort()
        for each in (two, three):
            assert await each.process.wait(10)
            assert each.process.death.result() == "killed by SIGKILL"
        assert (two.is_blamed, three.is_blamed, host.is_blamed) == (True, False, True)
        assert await host.process.wait(10)
        with pytest.raises(ChannelClosed):
            await lodge(run_dir, host, "l-4")

    asyncio.run(scenario())


def test_the_next_daemon_finds_them_in_one_process(run_dir: RunDir) -> None:
    async def scenario() -> None:
        first = await start_host(run_dir)
        one = await lodge(run_dir, first, "l-1")
        known: dict[tuple[int, int], Process] = {}
        host, lodger = [
            await Child.adopt(run_dir, name, lambda child, received: None, known)
            for name in ("h-1", "l-1")
        ]
        one.detach()
        first.detach()
        assert host.hello.host == HostState("cuda:0", ["l-1"])
        assert (host.is_lodger, lodger.is_lodger) == (False, True)
        assert list(known.values()) == [host.process]
        await lodger.stop(10)
        assert host.process.alive
        await host.stop(10)
        assert host.process.death.result() == "exited with code 0"

    asyncio.run(scenario())
