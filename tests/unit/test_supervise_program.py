"""Programs as processes: what belongs to one, what is left of it, and who knows of it later."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from gslice.core.errors import NotFound, Unavailable
from gslice.core.types import FunctionSpec, ProgramSpec, ShareBounds
from gslice.device import program_group
from gslice.device.program_group import ProgramGroup
from gslice.ipc.codec import from_json
from gslice.supervise import program as program_module
from gslice.supervise import program_note
from gslice.supervise.command import Command
from gslice.supervise.node import Node
from gslice.supervise.process import spawn
from gslice.supervise.program import Program
from gslice.supervise.program_note import Note, end_all, members, read_notes
from tests.node import wait_pidfd
from tests.unit.function_bench import make_supervisor

# It starts a child in a session of its own, which starts another; then it says so, and waits.
FAMILY = """
import os, signal, sys, time
if not os.fork():
    os.setsid()
    os.fork()
    time.sleep(1000)
print(os.environ["NAME"], os.getcwd(), len(os.sched_getaffinity(0)), flush=True)
signal.pause()
"""
Run = Callable[[Callable[[Node], Coroutine[Any, Any, None]]], None]


def spec(directory: Path, *command: str, name: str = "p") -> FunctionSpec:
    program = ProgramSpec(
        command or (sys.executable, "-c", FAMILY), str(directory), stop_timeout_us=5_000_000
    )
    return FunctionSpec(
        name,
        engine="command",
        share=ShareBounds(1, 1, auto=False),
        environment={"NAME": "value"},
        program=program,
    )


@pytest.fixture(params=["groups", "marks"])
def known_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How processes are known: by control groups if there are any, or without."""
    if request.param == "marks":
        monkeypatch.setattr(program_group, "find_root", lambda: (None, ""))
        monkeypatch.setattr(program_group, "find_memory_root", lambda: (None, ""))
    elif program_group.find_root()[0] is None:
        pytest.skip("no control groups here")
    return str(request.param)


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, events: list[str]) -> Iterator[Run]:
    """Runs a test on a node whose limiter is `threads`, which works everywhere."""
    state = tmp_path / "state"

    def go(test: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            node = make_supervisor(state, events).node
            node.devices["cpu"] = dataclasses.replace(node.devices["cpu"], limiter="threads")
            try:
                await test(node)
            finally:
                for note in read_notes(node).values():
                    await end_all(node, note)

        asyncio.run(main())

    yield go
    assert list((state / "run").iterdir()) == []


def test_under_mps_its_helpers_are_not_killed_before_they_have_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "log"
        code = "sleep 1000 & echo $!"
        process = spawn(["/bin/sh", "-c", code], dict(os.environ), log, ends_group=False)
        await process.death
        helper = int(log.read_text())
        pidfd = os.pidfd_open(helper)
        assert not wait_pidfd(pidfd, 0.5)  # killed, it would be gone in a moment
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)

    asyncio.run(scenario())


async def started(node: Node, wanted: FunctionSpec, processes: int = 3) -> Program:
    """A program that has started all that it starts; a family has said so."""
    program = await Program.start(node, wanted, 1.0)
    async with asyncio.timeout(20):
        # Neither /proc nor its log has an event for what it does.
        while len(members(program.note)) < processes or not (
            processes == 1 or node.log_path("p").read_text()
        ):
            await asyncio.wait([program.death], timeout=0.005)
            assert not program.death.done(), node.log_path("p").read_text()
    return program


def test_it_starts_where_and_as_it_should(run: Run, known_by: str, tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        program = await started(node, spec(tmp_path))
        assert program.resident_bytes > 0
        assert program.share_effective_percent == 100.0 / len(node.devices["cpu"].cpus)
        assert program.pid in members(program.note)
        assert await program.stop()
        assert members(program.note) == set()
        assert program.death.result() == "killed by SIGTERM"
        assert node.log_path("p").read_text() == f"value {tmp_path} 1\n"
        assert not any(path.exists() for path in program.note.group.paths)

    run(test)


def test_its_processes_are_looked_for_once_a_second(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        program = await started(node, spec(tmp_path))
        found, looks, now_s = members(program.note), 0, 5.0

        def look(note: Note) -> set[int]:
            nonlocal looks
            looks += 1
            return found

        with monkeypatch.context() as patch:
            patch.setattr(program_module, "members", look)
            patch.setattr(program_module, "time", SimpleNamespace(monotonic=lambda: now_s))
            assert program.resident_bytes == program.memory.process_bytes > 0
            assert looks == 1
            now_s += 1
            found = set()
            assert program.resident_bytes == 0
            assert program.resident_bytes == 0  # it may just be about to start
            assert looks == 3
        await program.kill()

    run(test)


def test_what_is_left_of_it_ends(run: Run, known_by: str, tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        program = await started(node, spec(tmp_path))
        program.abort()
        await program.death
        assert len(members(program.note)) == 2  # a group of their own, and nobody above them
        await program.clear()
        assert members(program.note) == set()

    run(test)


def test_another_daemon_finds_it(run: Run, known_by: str, tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        program = await started(node, spec(tmp_path))
        (note,) = read_notes(node).values()
        assert note == program.note
        again = Program.adopt(node, note)
        assert (again.pid, again.inherited) == (program.pid, True)
        await again.kill()
        with pytest.raises(NotFound):
            Program.adopt(node, note)

    run(test)


def test_one_that_cannot_be_noted_does_not_run(
    run: Run, known_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        notes: list[str] = []
        note_program = node.run_dir.note_program

        def full(name: str, text: str) -> None:
            if notes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            notes.append(text)
            note_program(name, text)

        monkeypatch.setattr(node.run_dir, "note_program", full)
        with pytest.raises(Unavailable, match=r"function p: the note .* No space left on device"):
            await Program.start(node, spec(tmp_path), 1.0)
        note = from_json(Note, json.loads(notes[0]))
        assert members(note) == set()
        assert not any(path.exists() for path in note.group.paths)

    run(test)


def test_a_share_that_cannot_be_noted_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        node.devices["cpu"] = dataclasses.replace(node.devices["cpu"], limiter="none")
        program = await Program.start(node, spec(tmp_path, "sleep", "1000"), 1.0)
        before = program.note
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", Mock(side_effect=OSError(errno.ENOSPC, "full")))
            for change in (lambda: program.set_share(2.0), lambda: program.is_now(spec(tmp_path))):
                with pytest.raises(Unavailable, match="cannot be written: full"):
                    change()
        assert program.note == before
        assert read_notes(node) == {"p": before}
        assert [path.suffix for path in node.run_dir.path.iterdir()] == [".program"]
        await program.kill()

    run(test)


def test_one_that_became_another_users_is_told_and_left(
    run: Run,
    known_by: str,
    tmp_path: Path,
    events: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(pidfd: int, number: int) -> None:
        raise PermissionError

    async def test(node: Node) -> None:
        program = await started(node, spec(tmp_path, "sh", "-c", "echo up; exec sleep 1000"), 1)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pidfd_send_signal", refused)
            for module in (program_note, program_module):
                patch.setattr(module, "KILL_TIMEOUT_S", 0.05)
            await program.kill()
        assert f"processes {program.pid} of its program cannot be killed" in events[-1]
        os.kill(program.pid, signal.SIGKILL)
        await program.death
        await end_all(node, program.note)

    run(test)


@pytest.mark.parametrize("pid", [0, os.getpid()], ids=["none", "another's"])
def test_a_stale_note_ends_nobody_else(
    run: Run, tmp_path: Path, events: list[str], pid: int
) -> None:
    async def test(node: Node) -> None:
        note = Note(
            spec(tmp_path), "m" * 16, ProgramGroup(), "threads", "threads", (0,), 1.0, pid, 1
        )
        supervisor = make_supervisor(tmp_path / "other", events)
        command = supervisor._new_function(note.spec)
        assert isinstance(command, Command)
        assert members(note) == set()
        assert not await command.take_back(note)
        assert "its program is gone" in events[-1]

    run(test)


def test_a_note_that_nobody_can_read_is_told(run: Run, events: list[str]) -> None:
    async def test(node: Node) -> None:
        node.run_dir.note_program("p", "{}")
        assert read_notes(node) == {}
        assert "the note of its program cannot be read" in events[-1]

    run(test)


def test_what_cannot_become_the_program_says_why(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("no program\n")
    wrong.chmod(0o700)

    async def test(node: Node) -> None:
        program = await Program.start(node, spec(tmp_path, "./wrong"), 1.0)
        assert await program.death == "exited with code 127"
        await program.clear()
        assert "./wrong cannot be run: " in node.log_path("p").read_text()

    run(test)


def test_a_signal_mask_or_handler_of_ours_is_not_its(run: Run, tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as of a job in the background
        try:
            program = await Program.start(node, spec(tmp_path, "cat", "/proc/self/status"), 1.0)
        finally:
            signal.signal(signal.SIGQUIT, before)
        assert await program.death == "exited with code 0"
        await program.clear()
        lines = node.log_path("p").read_text().splitlines()
        told = dict(line.split(":\t") for line in lines if line.startswith(("SigIgn", "SigBlk")))
        standard = (1 << 31) - 1  # the C library keeps some above for itself
        assert {int(mask, 16) & standard for mask in told.values()} == {0}

    run(test)
