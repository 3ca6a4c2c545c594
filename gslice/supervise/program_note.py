"""What is known of a program that is not ours: the note of it, and who belongs to it.

It has no control channel. Its first process is known by id and start time; to it belongs whoever
is in its control groups, or, where there are none, in its session or with its mark in the
environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, NotFound
from gslice.core.events import EventKind
from gslice.core.proc import stat_fields
from gslice.core.types import FunctionSpec
from gslice.device.cgroup import lives
from gslice.device.program_group import ProgramGroup
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.process import start_ticks

if TYPE_CHECKING:
    from gslice.core.types import ProgramSpec
    from gslice.supervise.node import Node

MARK = "GSLICE_PROGRAM"
KILL_TIMEOUT_S = 10.0
_RELEASE_TRIES = 200
_RELEASE_POLL_S = 0.005


@dataclass(frozen=True)
class Note:
    """What outlives the daemon that started a program.

    Attributes:
        spec: The function as it was started.
        mark: The value of `MARK` in its environment.
        group: Its control groups.
        limiter: What enforces its share.
        ordered: What its device was told to have enforce it.
        cpus: The device's cores, as they were.
        share_percent: Of its device.
        pid: Of its first process; 0: it was about to be started.
        started: Start ticks of that.
        finished: It did what it was there for, and is not started again.
        uid: Whom it was started as.
    """

    spec: FunctionSpec
    mark: str
    group: ProgramGroup
    limiter: str
    ordered: str
    cpus: tuple[int, ...]
    share_percent: float
    pid: int = 0
    started: int = 0
    finished: bool = False
    uid: int = 0


def program_of(spec: FunctionSpec) -> ProgramSpec:
    """The program of a function that is one."""
    assert spec.program is not None
    return spec.program


def to_text(note: Note) -> str:
    """What `read_notes` reads."""
    return json.dumps(to_json(note))


def read_notes(node: Node) -> dict[str, Note]:
    """What earlier daemons have noted, by function."""
    notes = {}
    for name, text in node.run_dir.programs().items():
        try:
            notes[name] = from_json(Note, json.loads(text))
        except (GsliceError, ValueError) as error:
            node.event(name, EventKind.ADOPT, f"the note of its program cannot be read: {error}")
            node.run_dir.forget_program(name)
    return notes


async def end_all(node: Node, note: Note) -> None:
    """Kills whoever belongs to a program, and removes its groups and the note."""
    left = await _kill(note)
    if left:
        pids = ", ".join(map(str, sorted(left)))
        text = f"processes {pids} of its program cannot be killed; they are left to the kernel"
        node.event(note.spec.name, EventKind.KILL, text)
    for _ in range(_RELEASE_TRIES):  # the dead leave their group a little later, and nothing tells
        if note.group.release():
            break
        await asyncio.sleep(_RELEASE_POLL_S)
    node.run_dir.forget_program(note.spec.name)


def members(note: Note) -> set[int]:
    """The ids of all processes of a program."""
    found = note.group.processes() if note.group.paths else _marked(note)
    return {pid for pid in found if lives(pid)}


async def _kill(note: Note) -> set[int]:
    """Returns those that would not die."""
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            while members(note):  # whoever is killed may just have started another
                await asyncio.gather(*_kill_once(note))
    except TimeoutError:
        return members(note)
    return set()


def _kill_once(note: Note) -> list[asyncio.Future[None]]:
    """Kills all that are there now; returns what resolves when each has ended."""
    pidfds = {}
    for pid in members(note):
        with contextlib.suppress(ProcessLookupError):
            pidfds[pid] = os.pidfd_open(pid)
    still = members(note)  # an id that was used again meanwhile is not among them
    ends = []
    for pid, pidfd in pidfds.items():
        ends.append(_end_of(pidfd))
        if pid in still:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's stays
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            ends[-1].cancel()
    return [end for end in ends if not end.cancelled()]


def _end_of(pidfd: int) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    end = loop.create_future()

    def ended() -> None:
        if not end.done():
            end.set_result(None)

    def close(_: asyncio.Future[None]) -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)

    loop.add_reader(pidfd, ended)
    end.add_done_callback(close)
    return end


def _marked(note: Note) -> set[int]:
    """Where there are no control groups: who carries its mark, or is in its session."""
    mark = f"{MARK}={note.mark}".encode()
    session = note.pid if _leads(note) else -1
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                of_session = int(stat_fields(int(entry.name))[3]) == session
                if of_session or mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def _leads(note: Note) -> bool:
    """Whether its first process is there: its id, and so its session's, is not another's yet."""
    try:
        return bool(note.pid) and start_ticks(note.pid) == note.started
    except NotFound:
        return False
