"""Commands whose programs are made up, and whose health a test sets."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from gslice.core.types import FunctionSpec, MemoryTaken, ProgramSpec, ShareBounds
from gslice.device.program_group import ProgramGroup
from gslice.supervise import command as module
from gslice.supervise.command import Command
from gslice.supervise.program import Program
from gslice.supervise.program_note import Note
from gslice.supervise.supervisor import Supervisor
from tests.unit.function_bench import make_supervisor, unheard

URL = "http://127.0.0.1:1/health"
ASKED = ProgramSpec(("sleep", "1000"), health_url=URL, health_period_us=1000)
SPEC = FunctionSpec("llm", engine="command", share=ShareBounds(30, 30, auto=False), program=ASKED)
JOB = dataclasses.replace(SPEC, program=ProgramSpec(("sleep", "1000")))


class FakeProgram:
    """As much of a program as its function looks at."""

    memory_is_limited = True
    inherited = False
    resident_bytes = 0

    def __init__(self, spec: FunctionSpec, share_percent: float, pid: int) -> None:
        self.pid = pid
        self.note = Note(spec, "m", ProgramGroup(), "cgroup", "auto", (0,), share_percent)
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.cleared = False
        self.live_resize = True
        self.share_effective_percent = share_percent

    @property
    def memory_limit_bytes(self) -> int:
        assert self.note.spec.program is not None
        return self.note.spec.program.memory_bytes

    @property
    def memory(self) -> MemoryTaken:
        return MemoryTaken(process_bytes=self.memory_limit_bytes)

    def set_share(self, share_percent: float) -> None:
        self.note = dataclasses.replace(self.note, share_percent=share_percent)
        self.share_effective_percent = share_percent

    def is_now(self, spec: FunctionSpec) -> None:
        self.note = dataclasses.replace(self.note, spec=spec)

    async def clear(self) -> None:
        self.cleared = True

    async def stop(self) -> bool:
        if not self.death.done():
            self.death.set_result("killed by SIGTERM")
        await self.clear()
        return True

    kill = stop


class Bench:
    """A supervisor whose programs are made up, and whose health a test sets."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.supervisor: Supervisor = make_supervisor(directory, self.events)
        self.programs: list[FakeProgram] = []
        self.ailment = ""
        self.dies_at_once = ""
        self.refusals: list[Exception] = []
        self.share_meanwhile: float | None = None
        monkeypatch.setattr(Program, "start", self._start)
        monkeypatch.setattr(module, "ailment", self._asked)

    async def _start(self, node: object, spec: FunctionSpec, share_percent: float) -> FakeProgram:
        if self.refusals:
            raise self.refusals.pop()
        if self.share_meanwhile is not None:
            self.supervisor.function(spec.name).share_granted_percent = self.share_meanwhile
        program = FakeProgram(spec, share_percent, len(self.programs) + 1)
        if self.dies_at_once:
            program.death.set_result(self.dies_at_once)
        self.programs.append(program)
        return program

    async def _asked(self, url: str, timeout_s: float) -> str:
        return self.ailment

    async def load(self, spec: FunctionSpec = SPEC) -> Command:
        await self.supervisor.load(spec, unheard)
        function = self.supervisor.function(spec.name)
        assert isinstance(function, Command)
        return function

    async def until(self, condition: Callable[[], bool]) -> None:
        changes = self.supervisor.node.changes
        async with asyncio.timeout(10):
            while not condition():
                await changes.wait(changes.version)

    async def state(self, state: str) -> Command:
        function = self.supervisor.function("llm")
        await self.until(lambda: function.state == state)
        assert isinstance(function, Command)
        return function
