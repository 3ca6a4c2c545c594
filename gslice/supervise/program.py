"""A program that is not ours as the daemon leads it: started, limited, ended, adopted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, GsliceError, LoadFailed, Unavailable
from gslice.core.hardening import entrance, inherited
from gslice.core.types import FunctionSpec, MemoryTaken
from gslice.device.limiter import NICENESS, WEIGHTS, whole_cores
from gslice.device.program_group import ProgramGroup
from gslice.ipc.process import resident_bytes
from gslice.supervise import launcher
from gslice.supervise.process import Process, spawn
from gslice.supervise.program_note import (
    KILL_TIMEOUT_S,
    MARK,
    Note,
    end_all,
    members,
    program_of,
    to_text,
)

if TYPE_CHECKING:
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.node import Node

_MEMBERS_S = 1.0


class Program:
    """One process tree. Made by `start` or `adopt`.

    Attributes:
        note: What is kept of it.
        inherited: An earlier daemon started it.
    """

    def __init__(self, node: Node, note: Note, process: Process, *, inherited: bool) -> None:
        self.note = note
        self.inherited = inherited
        self._node = node
        self._process = process
        self._seen: tuple[float, set[int]] = 0.0, set()
        if (gpu := self._gpu) is not None:
            gpu.clients.programs.add(self)

    @classmethod
    async def start(cls, node: Node, spec: FunctionSpec, share_percent: float) -> Program:
        """Starts it under its limits.

        Raises:
            GsliceError: why it cannot be started; nothing of it is left.
        """
        check(spec)
        device, gpu = node.device(spec.device), node.gpus.get(spec.device)
        environment, cpus = _passed_on(closed=spec.device in node.users), device.cpus
        if gpu is None:
            environment |= {"CUDA_VISIBLE_DEVICES": "", **spec.environment}  # it asked for none
        else:
            await gpu.ready()
            cpus = tuple(gpu.cpus())
            environment |= {**spec.environment, **gpu.environment(spec, share_percent)}
        program = cls._spawn(node, spec, share_percent, cpus, environment)
        try:
            program._change_note(pid=program.pid, started=program._process.started)
        except GsliceError:  # a later daemon would not know it, and start another beside it
            await program.kill()
            raise
        return program

    @classmethod
    def _spawn(
        cls,
        node: Node,
        spec: FunctionSpec,
        share_percent: float,
        cpus: tuple[int, ...],
        environment: dict[str, str],
    ) -> Program:
        wanted, limiter = program_of(spec), node.limiter(spec.device, spec)
        on_host = spec.device not in node.gpus
        memory_bytes = wanted.memory_bytes if on_host else 0
        group = ProgramGroup.make(spec.name, WEIGHTS[spec.priority], memory_bytes)
        mark = secrets.token_hex(8)
        command, environment = list(wanted.command), {**environment, MARK: mark}
        if (user := node.users.get(spec.device)) is not None:
            known = {**user.environment, **environment}
            command, environment = entrance(user.uid, user.gid, user.groups, command, known)
        ordered = node.device(spec.device).limiter if on_host else limiter
        uid = node.uid_of(spec.device)
        note = Note(spec, mark, group, limiter, ordered, cpus, share_percent, uid=uid)
        try:
            if limiter == "cgroup":
                group.set_share(len(cpus), share_percent)
            node.run_dir.note_program(spec.name, to_text(note))
            own = whole_cores(cpus, share_percent, int(mark, 16)) if limiter == "threads" else cpus
            order = {
                "entrances": group.entrances,
                "cpus": sorted(own),
                "niceness": NICENESS[spec.priority],
                "directory": wanted.directory,
                "command": command,
            }
            arguments = [sys.executable, "-I", "-S", launcher.__file__, json.dumps(order)]
            process = spawn(
                arguments,
                environment,
                node.log_path(spec.name),
                ends_group=not on_mps(note),
            )
        except (GsliceError, OSError) as error:
            group.release()
            node.run_dir.forget_program(spec.name)
            if isinstance(error, GsliceError):
                raise
            raise LoadFailed(f"function {spec.name}: it cannot be started: {error}") from error
        return cls(node, note, process, inherited=False)

    @classmethod
    def adopt(cls, node: Node, note: Note) -> Program:
        """Takes over what an earlier daemon started.

        Raises:
            NotFound: its first process is gone.
        """
        process = Process(note.pid, note.started, ends_group=not on_mps(note))
        return cls(node, note, process, inherited=True)

    # ---- what can be seen --------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    @property
    def death(self) -> asyncio.Future[str]:
        """Resolves when its first process has ended: with how, in words."""
        return self._process.death

    @property
    def live_resize(self) -> bool:
        """Whether its share can change while it runs."""
        return self.note.limiter in ("cgroup", "none")

    @property
    def share_effective_percent(self) -> float:
        """Its share as read back; 0: only the program itself could read it."""
        note = self.note
        if note.limiter == "threads":
            with contextlib.suppress(ProcessLookupError):
                return 100.0 * len(os.sched_getaffinity(self.pid)) / len(note.cpus)
            return 0.0
        if note.limiter == "cgroup":
            try:
                return note.group.read_share(len(note.cpus))
            except FailedPrecondition:  # it has ended
                return 0.0
        return 100.0 if note.limiter == "none" else 0.0

    @property
    def memory_limit_bytes(self) -> int:
        """Most memory of its device that it may take; 0: no limit."""
        return program_of(self.note.spec).memory_bytes

    @property
    def resident_bytes(self) -> int:
        """What all of its processes hold of the host's memory."""
        return sum(resident_bytes(pid) for pid in self._members())

    @property
    def device_bytes(self) -> int:
        """What counts as taken of a GPU: all that it may take."""
        return self.memory_limit_bytes if self._gpu is not None else 0

    @property
    def memory(self) -> MemoryTaken:
        """What counts as taken: all that it may take, and without a limit what it holds."""
        if self._gpu is not None:
            return MemoryTaken(self.resident_bytes, weights_bytes=self.device_bytes)
        return MemoryTaken(self.memory_limit_bytes or self.resident_bytes)

    @property
    def memory_is_limited(self) -> bool:
        """Whether something keeps it from taking more than it may."""
        return self.note.limiter == "mps" if self._gpu is not None else bool(self.note.group.memory)

    # ---- orders ------------------------------------------------------------------------------

    def set_share(self, share_percent: float) -> None:
        """Changes its share in place, if that can be done.

        Raises:
            FailedPrecondition: the kernel refuses it.
            Unavailable: it cannot be noted, and is as it was.
        """
        if not self.live_resize:
            return
        self._change_note(share_percent=share_percent)
        if self.note.limiter == "cgroup":
            self.note.group.set_share(len(self.note.cpus), share_percent)

    def is_now(self, spec: FunctionSpec) -> None:
        """Settings have changed that it need not know of.

        Raises:
            Unavailable: that cannot be noted.
        """
        self._change_note(spec=spec)

    async def stop(self) -> bool:
        """Asks it to end, and kills what has not ended in time.

        Returns:
            False: it did not end by itself.
        """
        wanted = program_of(self.note.spec)
        if self._process.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.Signals[wanted.stop_signal])
        in_time = await self._process.wait(wanted.stop_timeout_us / 1e6)
        await self.kill()
        return in_time

    def abort(self) -> None:
        """Kills its first process, and leaves the rest to those who wait for its death."""
        self._process.signal(signal.SIGKILL)

    async def kill(self) -> None:
        """Ends all of it at once, and forgets it."""
        if self._process.alive:
            await self._leave_gpu()
            self._process.signal(signal.SIGKILL)
            await self._process.wait(KILL_TIMEOUT_S)
        await self.clear()

    async def clear(self) -> None:
        """Ends what its first process, now dead, has left; nothing of it remains."""
        await self._leave_gpu()
        await end_all(self._node, self.note)
        if (gpu := self._gpu) is not None:
            gpu.clients.programs.discard(self)

    # ---- parts -------------------------------------------------------------------------------

    @property
    def _gpu(self) -> Gpu | None:
        return self._node.gpus.get(self.note.spec.device)

    def _members(self) -> set[int]:
        """Its processes, for figures: without control groups all of /proc is read to find them."""
        now_s, (seen_s, found) = time.monotonic(), self._seen
        if not found or now_s - seen_s >= _MEMBERS_S:
            found = members(self.note)
            self._seen = now_s, found
        return found

    async def _leave_gpu(self) -> None:
        """A process that is killed while it computes may leave MPS in disorder."""
        if (gpu := self._gpu) is not None and (pids := members(self.note)):
            await gpu.clients.take_out(pids)

    def _change_note(self, **changes: object) -> None:
        note = dataclasses.replace(self.note, **changes)  # type: ignore[arg-type]
        try:
            self._node.run_dir.note_program(note.spec.name, to_text(note))
        except OSError as error:
            raise Unavailable(
                f"function {note.spec.name}: the note of its program cannot be written:"
                f" {error.strerror}",
                hint=f"is there space in {self._node.run_dir.path}?",
            ) from error
        self.note = note


def on_mps(note: Note) -> bool:
    """Whether its processes are to leave MPS before they are killed."""
    return note.limiter == "mps"


def check(spec: FunctionSpec) -> None:
    """Checks that there is such a program.

    Raises:
        LoadFailed: there is none, or it cannot be run.
    """
    wanted = program_of(spec)
    program, directory = wanted.command[0], Path(wanted.directory)
    if not directory.is_dir():
        raise LoadFailed(f"function {spec.name}: there is no directory {directory}")
    if os.sep in program:
        found = os.access(directory / program, os.X_OK) and (directory / program).is_file()
        where = f"no program that may be run at {directory / program}"
    else:
        found = shutil.which(program, path=spec.environment.get("PATH")) is not None
        where = f"no program {program} on the PATH"
    if not found:
        raise LoadFailed(
            f"function {spec.name}: there is {where}",
            hint="give its whole path, or `environment: {PATH: ...}`",
        )


def runs_as(spec: FunctionSpec, wanted: FunctionSpec) -> bool:
    """Whether what was started as one can go on as the other: the program knows no difference."""
    before, after = program_of(spec), program_of(wanted)
    asked = {key: value for key, value in vars(after).items() if key.startswith(("health", "stop"))}
    program = dataclasses.replace(before, **asked)
    return wanted == dataclasses.replace(
        spec, share=wanted.share, version=wanted.version, program=program
    )


def _passed_on(*, closed: bool) -> dict[str, str]:
    """The daemon's own environment; what it says of MPS is not meant for others.

    Args:
        closed: Nor are its secrets.
    """
    passed = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_MPS_")}
    return inherited(passed) if closed else passed
