"""Children as real processes: start, handshake, orders, death, adoption."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import ChannelClosed, FailedPrecondition, NotFound, Unavailable
from gslice.ipc.messages import Drain, Ok
from gslice.supervise import child as child_module
from gslice.supervise.child import Child
from gslice.supervise.process import Launch, Process
from gslice.supervise.run_dir import RunDir
from tests.node import wait_pidfd

FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def run_dir(tmp_path: Path):
    directory = RunDir(tmp_path / "run")
    yield directory
    left = directory.names()
    directory.close()
    assert left == []


def start(run_dir: RunDir, mode: str, name: str = "w-1") -> Coroutine[Any, Any, Child]:
    log = run_dir.path.parent / "child.log"
    launch = Launch("child", (mode,), log, {"PYTHONPATH": str(FAKES)})
    return Child.start(run_dir, name, launch, lambda child, received: None)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_child_starts_obeys_and_ends_in_order(run_dir: RunDir) -> None:
    async def scenario() -> None:
        child = await start(run_dir, "good")
        assert run_dir.names() == ["w-1"]
        assert child.hello.pid == child.process.pid
        assert await child.request(Drain(1), Ok, timeout_s=10) == Ok()
        await child.stop(10)
        assert child.process.death.result() == "exited with code 0"
        assert gone(child.process.pid)

    asyncio.run(scenario())


def test_a_child_that_ignores_exit_is_killed(run_dir: RunDir) -> None:
    async def scenario() -> None:
        child = await start(run_dir, "deaf")
        await child.stop(0.05)
        assert child.process.death.result() == "killed by SIGKILL"

    asyncio.run(scenario())


def test_a_death_is_noticed_and_fails_what_was_asked(run_dir: RunDir) -> None:
    async def scenario() -> None:
        child = await start(run_dir, "good")
        os.kill(child.process.pid, signal.SIGKILL)
        assert await asyncio.wait_for(asyncio.shield(child.process.death), 10) == (
            "killed by SIGKILL"
        )
        with pytest.raises(ChannelClosed):
            await child.request(Drain(1), Ok, timeout_s=10)

    asyncio.run(scenario())


def test_a_child_that_dies_while_starting_is_told_with_its_last_line(run_dir: RunDir) -> None:
    async def scenario() -> None:
        with pytest.raises(Unavailable, match="exited with code 3 while starting: the last line"):
            await start(run_dir, "dies")

    asyncio.run(scenario())


def test_a_child_that_leaves_its_channel_is_killed(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "CLOSED_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        child = await start(run_dir, "rude")
        with pytest.raises(ChannelClosed):
            await child.request(Drain(1), Ok, timeout_s=10)
        assert await child.process.wait(10)
        assert child.process.death.result() == "killed by SIGKILL"

    asyncio.run(scenario())


def test_a_silent_child_is_killed(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "HELLO_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        with pytest.raises(Unavailable, match=r"killed by SIGKILL while starting.*said nothing"):
            await start(run_dir, "silent")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mode", "reason"), [("old", "speaks protocol 0"), ("liar", "says it is process 1")]
)
def test_a_child_that_cannot_be_trusted_is_ended(run_dir: RunDir, mode: str, reason: str) -> None:
    async def scenario() -> None:
        with pytest.raises(FailedPrecondition, match=reason):
            await start(run_dir, mode)

    asyncio.run(scenario())


def test_a_later_daemon_adopts_a_running_child(run_dir: RunDir) -> None:
    async def scenario() -> None:
        first = await start(run_dir, "good")
        first.detach()
        assert first.process.alive
        second = await Child.adopt(run_dir, "w-1", lambda child, received: None)
        assert second.process.pid == first.process.pid
        assert await second.request(Drain(1), Ok, timeout_s=10) == Ok()
        await second.stop(10)
        await first.process.wait(10)

    asyncio.run(scenario())


def test_a_socket_that_nobody_serves_cannot_be_adopted(run_dir: RunDir) -> None:
    async def scenario() -> None:
        run_dir.listen("w-1").close()
        with pytest.raises(NotFound, match=r"nobody serves the socket w-1\.sock"):
            await Child.adopt(run_dir, "w-1", lambda child, received: None)
        run_dir.remove("w-1")

    asyncio.run(scenario())


def test_a_process_id_that_was_used_again_is_not_the_process() -> None:
    async def scenario() -> None:
        with pytest.raises(NotFound, match="is not the one that was started"):
            Process(os.getpid(), started=1)

    asyncio.run(scenario())


def test_sockets_work_in_a_directory_deeper_than_a_socket_address(tmp_path: Path) -> None:
    deep = RunDir(tmp_path / ("d" * 100) / "run")
    listener = deep.listen("w-1")
    deep.connect("w-1").close()
    listener.close()
    deep.remove("w-1")
    deep.close()


@pytest.mark.parametrize(
    ("where", "name"),
    [(RunDir, "listen"), (os, "posix_spawn"), (os, "pidfd_open"), (RunDir, "note")],
)
def test_a_shortage_fails_the_start_and_leaves_nothing(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    spawned = []
    spawn = os.posix_spawn

    def spawns(*args: Any, **settings: Any) -> int:
        spawned.append(spawn(*args, **settings))
        return spawned[-1]

    def short(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def short_of_processes(*_: object, **__: object) -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", spawns)
    monkeypatch.setattr(where, name, short_of_processes if name == "posix_spawn" else short)

    async def scenario() -> None:
        with pytest.raises(Unavailable, match=r"child cannot be started: .*short of processes"):
            await start(run_dir, "good")

    asyncio.run(scenario())
    assert len(spawned) == (1 if name in ("pidfd_open", "note") else 0)
    assert all(gone(pid) for pid in spawned)
    assert list(run_dir.path.iterdir()) == []


def test_what_a_killed_child_had_started_goes_with_it(run_dir: RunDir) -> None:
    async def scenario() -> None:
        child = await start(run_dir, "parent")
        (grandchild,) = map(int, (run_dir.path.parent / "child.log").read_text().split())
        pidfd = os.pidfd_open(grandchild)
        child.abort()
        assert await child.process.wait(10)
        assert wait_pidfd(pidfd, 10)
        os.close(pidfd)

    asyncio.run(scenario())
