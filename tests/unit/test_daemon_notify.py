"""What a service manager is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.daemon.notify import Notifier, status_line
from gslice.supervise.node import Changes


class Manager:
    """Hears what is sent to its socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.abstract = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self.abstract)

    async def heard(self) -> list[str]:
        loop = asyncio.get_running_loop()
        return (await asyncio.wait_for(loop.sock_recv(self._socket, 4096), 30)).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"gslice-test-{os.getpid()}"
    manager = Manager(str(tmp_path / "n") if request.param == "path" else f"@{name}")
    yield manager
    manager.close()


def daemon() -> Any:
    return SimpleNamespace(
        node=SimpleNamespace(changes=Changes()),
        applying=SimpleNamespace(running=False),
        supervisor=SimpleNamespace(functions={}),
        handover=None,
    )


def function(name: str, state: str) -> Any:
    return SimpleNamespace(name=name, state=state)


def test_each_change_is_told_once(manager: Manager) -> None:
    async def scenario() -> None:
        node = daemon()
        told = asyncio.create_task(Notifier({"NOTIFY_SOCKET": manager.address}).follow(node))
        assert await manager.heard() == ["READY=1", "STATUS=0 of 0 functions serve"]
        node.node.changes.notify()  # of nothing that is told
        await asyncio.sleep(0)
        node.supervisor.functions["a"] = function("a", "READY")
        node.node.changes.notify()
        assert await manager.heard() == ["STATUS=1 of 1 functions serve"]
        node.applying.running = True
        node.node.changes.notify()
        reloading, at = await manager.heard()
        assert (reloading, at.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
        node.applying.running = False
        node.node.changes.notify()
        assert await manager.heard() == ["READY=1"]
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)
        assert await manager.heard() == ["STOPPING=1"]

    asyncio.run(scenario())


def test_what_the_manager_has_no_room_for_is_told_later(manager: Manager) -> None:
    async def scenario() -> None:
        node = daemon()
        filled = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"filler", manager.abstract)
                    filled += 1
        told = asyncio.create_task(Notifier({"NOTIFY_SOCKET": manager.address}).follow(node))
        await asyncio.sleep(0)
        node.supervisor.functions["a"] = function("a", "READY")
        node.node.changes.notify()
        assert [await manager.heard() for _ in range(filled)] == filled * [["filler"]]
        first = await manager.heard()
        assert first[0] == "READY=1"
        assert first[-1] == "STATUS=1 of 1 functions serve"
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)

    asyncio.run(scenario())


def test_a_handover_is_a_reload(manager: Manager) -> None:
    async def scenario() -> None:
        node = daemon()
        told = asyncio.create_task(Notifier({"NOTIFY_SOCKET": manager.address}).follow(node))
        await manager.heard()
        node.handover = object()
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)
        assert (await manager.heard())[0] == "RELOADING=1"

    asyncio.run(scenario())


def test_the_watchdog_hears_that_the_loop_turns(manager: Manager) -> None:
    async def scenario() -> None:
        environment = {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": "20000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        told = asyncio.create_task(Notifier(environment).follow(daemon()))
        assert (await manager.heard())[-1] == "WATCHDOG=1"
        assert await manager.heard() == ["WATCHDOG=1"]
        assert await manager.heard() == ["WATCHDOG=1"]
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)

    asyncio.run(scenario())


def test_a_watchdog_of_another_process_is_none_of_ours(manager: Manager) -> None:
    async def scenario() -> None:
        environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
        told = asyncio.create_task(Notifier(environment).follow(daemon()))
        assert "WATCHDOG=1" not in await manager.heard()
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)
        assert await manager.heard() == ["STOPPING=1"]

    asyncio.run(scenario())


def test_children_do_not_find_it_and_the_next_daemon_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    notifier = Notifier.receive()
    assert not given.keys() & os.environ.keys()
    notifier.hand_over()
    assert {name: os.environ[name] for name in given} == given


def test_without_a_manager_nothing_is_told() -> None:
    asyncio.run(Notifier({}).follow(daemon()))


def test_a_manager_that_is_gone_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        told = asyncio.create_task(
            Notifier({"NOTIFY_SOCKET": str(tmp_path / "x")}).follow(daemon())
        )
        await asyncio.sleep(0)
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)

    asyncio.run(scenario())
    assert "the service manager was not told READY=1" in caplog.text


def test_the_status_names_what_has_failed() -> None:
    node = daemon()
    for name, state in (("a", "READY"), ("b", "FAILED"), ("c", "COLD"), ("d", "FAILED")):
        node.supervisor.functions[name] = function(name, state)
    assert status_line(node) == "2 of 4 functions serve; failed: b, d"
