"""What an upgrade checks and hands over, without processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.errors import FailedPrecondition, LoadFailed, Unavailable
from gslice.daemon import upgrade as upgrade_module
from gslice.daemon.handover import VARIABLE, Handover, release_signals
from gslice.daemon.http import HttpServer, hand_over, health
from gslice.daemon.lock import StateLock
from gslice.daemon.successor import Versions, check_command
from gslice.daemon.upgrade import Upgrade

ANY_PORT = "127.0.0.1:0"
OWN = Versions.own(Path("/state"))


def test_the_same_versions_can_take_over() -> None:
    OWN.check_successor(Versions.from_json(OWN.to_json()))
    OWN.check_successor(dataclasses.replace(OWN, version="9.9", schema=OWN.schema + 1))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"protocol": 99}, "has control protocol 99, and what runs has"),
        ({"layout": 99}, "has segment layout 99"),
        ({"schema": 0}, "cannot read the database"),
        ({"state_dir": "/other"}, "names the state_dir /other now"),
    ],
)
def test_other_versions_are_refused(other: dict[str, Any], told: str) -> None:
    with pytest.raises(FailedPrecondition, match=told):
        OWN.check_successor(dataclasses.replace(OWN, **other))


def test_later_versions_may_say_more() -> None:
    values = {**json.loads(OWN.to_json()), "more": 1}
    assert Versions.from_json(json.dumps(values)) == OWN


@pytest.mark.parametrize("text", ["", "gslice 0.1", "[]", '{"version": "0.1"}'])
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(FailedPrecondition, match="does not say what it is"):
        Versions.from_json(text)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit('no such model')", "would not start: no such model"),
        ("import os; os.abort()", "would not start: .*SIGABRT"),
        ("print('hello')", "does not say what it is: 'hello'"),
    ],
)
def test_a_command_that_fails_its_check(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(FailedPrecondition, match=told):
        asyncio.run(check_command([sys.executable, "-c", code], tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_can_take_over(tmp_path: Path) -> None:
    own = Versions.own(tmp_path)
    code = f"import sys; assert sys.argv[1:] == ['--check']; print({own.to_json()!r})"
    assert asyncio.run(check_command([sys.executable, "-c", code], tmp_path)) == own


# ---- handover -----------------------------------------------------------------------------------


SUCCESSOR = """
import os, signal, sys
from gslice.daemon.handover import Handover
handover = Handover.receive()
assert Handover.receive() is None
assert not os.get_inheritable(handover.lock_fd)
assert handover.upgrade == {"begun_s": 1.5} and handover.stop
assert handover.take_listener("http", "another") is None
assert handover.take_listener("metrics", "asked") is None
assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
open(sys.argv[1]).read()
"""
DAEMON = """
import socket, sys
from pathlib import Path
from gslice.daemon.handover import Handover
from gslice.daemon.lock import StateLock
lock, listener = StateLock(Path(sys.argv[1])), socket.create_server(("127.0.0.1", 0))
listeners = {"http": ("asked", listener.fileno())}
handover = Handover(lock.fd, listeners, {"begun_s": 1.5}, stop=True)
handover.replace_process([sys.executable, "-c", sys.argv[2], sys.argv[3]])
"""


def test_what_is_handed_over_comes_through_an_exec(tmp_path: Path) -> None:
    """It holds the lock, replaces itself, and still holds it."""
    gate, state_dir = tmp_path / "gate", tmp_path / "state"
    os.mkfifo(gate)
    arguments = [str(state_dir), SUCCESSOR, str(gate)]
    with subprocess.Popen([sys.executable, "-c", DAEMON, *arguments]) as daemon:
        held = pytest.raises(FailedPrecondition, match=f"pid {daemon.pid}")
        with gate.open("w"), held:  # the successor has come to its end
            StateLock(state_dir)
    assert daemon.returncode == 0


def test_a_command_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        with StateLock(tmp_path) as lock, pytest.raises(Unavailable, match="cannot run /no/python"):
            Handover(lock.fd).replace_process(["/no/python"])
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        release_signals()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert VARIABLE not in os.environ


def test_a_page_is_asked_for_between_two_servers() -> None:
    """Whoever connects meanwhile is answered by the second."""
    first = HttpServer(ANY_PORT, health(lambda: True))
    handed = asyncio.run(hand_over({"http": first}))
    assert handed["http"][0] == ANY_PORT
    host, port = first.address.split(":")
    early = socket.create_connection((host, int(port)))
    early.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    second = HttpServer(
        ANY_PORT, health(lambda: True), Handover(listeners=handed).take_listener("http", ANY_PORT)
    )
    assert second.address == first.address
    with early, early.makefile() as answer:
        assert "200 OK" in answer.readline()
    with urllib.request.urlopen(f"http://{second.address}/healthz") as reply:
        assert reply.read() == b"alive\n"
    second.close()


def test_connections_that_say_nothing_take_no_more_threads_than_there_may_be() -> None:
    server = HttpServer(ANY_PORT, health(lambda: True))
    host, port = server.address.split(":")
    with contextlib.ExitStack() as silent:
        for _ in range(64):
            silent.enter_context(socket.create_connection((host, int(port))))
        with socket.create_connection((host, int(port))) as late:
            assert late.recv(1) == b""
    while True:  # the threads end, one after the other
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{server.address}/healthz") as reply,
        ):
            assert reply.read() == b"alive\n"
            break
    server.close()


def test_a_socket_of_another_address_is_closed() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    handover = Handover(listeners={"http": (ANY_PORT, listener.detach())})
    assert handover.take_listener("http", "127.0.0.1:1") is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


# ---- stages -------------------------------------------------------------------------------------


class Supervisor:
    """Stands for what runs, which is no front-end; remembers events."""

    def __init__(self, **functions: Any) -> None:
        self.node = self.frontends = self
        self.functions = functions
        self.told: list[str] = []
        self.config: Any = None
        self.renewing = asyncio.Lock()

    def all(self) -> list[Any]:
        return []

    def event(self, subject: str, kind: str, text: str) -> None:
        self.told.append(text)


def test_the_stages_go_on_in_the_next_daemon() -> None:
    async def run() -> None:
        first = Upgrade(Supervisor(), ["gslice"])  # type: ignore[arg-type]
        assert [passed async for passed in first.follow()] == []
        first.begin("SERVING")
        with pytest.raises(FailedPrecondition, match="an upgrade is under way"):
            first.begin("SERVING")
        state = json.loads(json.dumps(first.to_json()))
        second = Upgrade(Supervisor(), ["gslice"])  # type: ignore[arg-type]
        second.resume(state)
        stages = second.follow()
        assert [(await anext(stages)).name for _ in range(2)] == ["check", "adopt"]
        assert second.running

    asyncio.run(run())


class Renewed:
    """A function with a worker to replace, by what works or fails."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.resizing = self.kept = self
        self.lock = asyncio.Lock()
        self.dropped = False

    async def renew(self, stage: Callable[[str, str], None]) -> None:
        stage("worker", self.name)
        if self.error is not None:
            raise self.error

    async def drop_inherited(self, why: str) -> None:
        self.dropped = self.lock.locked()


@pytest.mark.parametrize("workers", [False, True])
def test_workers_are_replaced_where_the_daemon_before_was_told_so(workers: bool) -> None:
    async def run() -> None:
        first = Upgrade(Supervisor(), ["gslice"])  # type: ignore[arg-type]
        first.begin("SERVING", workers=workers)
        second = Upgrade(Supervisor(f=Renewed("f")), ["gslice"])  # type: ignore[arg-type]
        second.resume(json.loads(json.dumps(first.to_json())))
        await second.finish()
        names = [passed.name async for passed in second.follow()]
        assert names == ["check", "adopt", *workers * ["worker"], "done"]

    asyncio.run(run())


def test_what_fails_keeps_no_other_worker_from_being_replaced() -> None:
    async def run() -> None:
        functions = {
            "a": Renewed("a", LoadFailed("function a: it is broken", hint="mend it")),
            "b": Renewed("b", OSError(24, "Too many open files")),
            "c": Renewed("c"),
        }
        supervisor = Supervisor(**functions)
        upgrade = Upgrade(supervisor, ["gslice"])  # type: ignore[arg-type]
        upgrade.begin("SERVING", workers=True)
        await upgrade.finish()
        passed = [passed async for passed in upgrade.follow()]
        assert [each.detail for each in passed[1:4]] == ["a", "b", "c"]
        assert (passed[-1].name, passed[-1].detail) == (
            "failed",
            "the daemon is new; a worker of a is not: it is broken (mend it); "
            "a worker of b is not: [Errno 24] Too many open files",
        )
        assert "its worker is not replaced: it is broken (mend it)" in supervisor.told
        assert all(function.dropped for function in functions.values())

    asyncio.run(run())


@pytest.mark.parametrize("part", ["prepare", "finish"])
def test_one_that_breaks_has_ended(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object) -> None:
        raise OSError("no space left")

    async def run() -> None:
        for function in ("check_command", "renew_frontends"):
            monkeypatch.setattr(upgrade_module, function, breaks)
        supervisor = Supervisor()
        supervisor.config = SimpleNamespace(state_dir=Path("/state"))
        upgrade = Upgrade(supervisor, ["gslice"])  # type: ignore[arg-type]
        upgrade.begin("SERVING")
        with pytest.raises(OSError, match="no space left"):
            await getattr(upgrade, part)()
        last = [passed async for passed in upgrade.follow()][-1]
        assert (last.name, "OSError: no space left" in last.detail) == ("failed", True)
        assert not upgrade.running

    asyncio.run(run())


@pytest.mark.parametrize(
    ("command", "state", "told"),
    [([], "SERVING", "no command"), (["gslice"], "STARTING", "the daemon is STARTING")],
)
def test_what_cannot_be_upgraded(command: list[str], state: str, told: str) -> None:
    async def run() -> None:
        with pytest.raises(FailedPrecondition, match=told):
            Upgrade(Supervisor(), command).begin(state)  # type: ignore[arg-type]

    asyncio.run(run())
