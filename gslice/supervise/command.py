"""A function that is a program of somebody else: an LLM server, a trainer.

It counts like any other where shares and memory are divided, and none of its requests go through
gslice. So there is one process tree and no deployment: a new one cannot take over from the old
one, which has its port, and is started once that has ended.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.control.breaker import SECOND_US, Breaker, RestartPolicy
from gslice.control.versions import where_it_is
from gslice.core.errors import FailedPrecondition, GsliceError, NotFound
from gslice.core.events import EventKind
from gslice.core.figures import megabytes
from gslice.supervise.function import Function
from gslice.supervise.health import ailment
from gslice.supervise.listing import Listing
from gslice.supervise.logs import last_lines, shortened
from gslice.supervise.news import unheard
from gslice.supervise.program import Program, check, runs_as
from gslice.supervise.program_note import end_all, members, program_of, to_text
from gslice.supervise.program_share import ProgramShare
from gslice.supervise.restarts import LAST_LINES, LINE_MAX_CHARS
from gslice.supervise.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.types import FunctionSpec
    from gslice.supervise.budget import Budget
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.node import Node
    from gslice.supervise.program_note import Note

# Many take minutes until they serve, so that a minute would never see a second death.
_RESTARTS = RestartPolicy(window_us=3600 * SECOND_US, settled_us=600 * SECOND_US)
_UNASKED_PERIOD_S = 1.0
_LOOK_PERIOD_S = 1.0
_DONE = "exited with code 0"
_FINISHED = f"it has finished: {_DONE}"


class Command(Function):
    """See the module, and `Function`.

    Its states are `LOADING` while it runs and has not answered yet, `READY`, `UNAVAILABLE` while it
    does not answer any more, `FINISHED`, `FAILED` and `UNLOADING`.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        frontends: Frontends,
        budget: Budget,
        on_failed: Callable[[], None],
    ) -> None:
        super().__init__(node, spec, frontends, budget, on_failed)
        self.resizing = ProgramShare(node, self, budget)
        self._breaker = Breaker(_RESTARTS)
        self._tasks = Tasks(spec.name, node.event)
        self._worry, self._look_s = "", 0.0

    @property
    def serving(self) -> bool:
        """Whether it runs, and says that it is well if it can be asked."""
        return self.state == "READY"

    # ---- orders; the caller holds the lock -----------------------------------------------------

    async def load(
        self, spec: FunctionSpec, stage: Callable[[str, str], None], *, warm: bool = False
    ) -> None:
        """Starts it; what ran for it is ended first. Whether it serves shows later.

        Args:
            spec: What to start.
            stage: Told of each stage.
            warm: Never: no version of it is kept.

        Raises:
            GsliceError: it cannot be started. What ran before runs on where that was seen before.
        """
        check(spec)
        self._check_memory(spec)
        await self._halt()
        self._breaker.reset()
        self.accepting = False
        if self.program is not None:
            self.set_state("LOADING", "it is being started anew")
            await self.show("LOADING")
            await self._end(stage)
        self.spec = spec
        stage("start", shortened(" ".join(program_of(spec).command)))
        await self._begin()
        stage("load", self.reason)

    async def unload(self, stage: Callable[[str, str], None]) -> None:
        """Ends the program, and is forgotten."""
        self.accepting = False
        self.set_state("UNLOADING", "it is being unloaded")
        await self._halt()
        await self.show("UNLOADING")
        await self._end(stage)
        self._node.run_dir.forget_program(self.name)  # it may have finished before
        await self._frontends.forget(self.name)

    async def take_back(self, note: Note) -> bool:
        """Goes on with the program that an earlier daemon started.

        Returns:
            False: it has died, or its device is gone; then nothing of it is left.
        """
        if note.finished:
            await self._refuse("FINISHED", "UNAVAILABLE", _FINISHED)
            return True
        device = self._node.devices.get(note.spec.device)
        try:
            if not note.pid:
                raise NotFound("it was about to be started when the daemon ended")
            program = Program.adopt(self._node, note)
        except NotFound as error:
            self._node.event(self.name, EventKind.ADOPT, f"its program is gone: {error.message}")
            await end_all(self._node, note)
            return False
        if device is None:
            text = f"there is no device {note.spec.device} any more: its program is ended"
            self._node.event(self.name, EventKind.ADOPT, text)
            await program.kill()
            return False
        self.admitted, self.share_granted_percent = True, note.share_percent
        fits = device.fits(note.spec, note.cpus, note.ordered)
        self.outdated = not fits or note.uid != self._node.uid_of(note.spec.device)
        self._look_after(program)
        text = f"adopted its program, pid {program.pid}"
        self._node.event(self.name, EventKind.ADOPT, text)
        return True

    def runs(self, spec: FunctionSpec) -> bool:
        """See `Function.runs`; what has finished does not begin again for another share."""
        wanted = where_it_is(spec, self.spec)
        if self.state == "FINISHED" and wanted.program is not None:
            return runs_as(self.spec, wanted)
        return super().runs(spec)

    def takes_in_place(self, before: FunctionSpec, after: FunctionSpec) -> bool:
        """See `Function.takes_in_place`."""
        program = self.program
        if program is None or before == after or not self.accepting or self.outdated:
            return False
        return runs_as(before, after) and (before.share == after.share or program.live_resize)

    def take_over(self, spec: FunctionSpec) -> None:
        """See `Function.take_over`.

        Raises:
            Unavailable: it cannot be noted, and nothing has changed.
        """
        if self.program is not None:
            self.program.is_now(spec)
        self.spec = spec

    async def fail(self, reason: str) -> None:
        """See `Function.fail`."""
        if self.program is None:
            self._node.run_dir.forget_program(self.name)  # it may have finished before
        await super().fail(reason)

    async def grant(self, share_percent: float) -> None:
        """Sets the share, if that can be done while it runs."""
        self.share_granted_percent = share_percent
        if self.program is not None:
            self.program.set_share(share_percent)

    async def stop(self, drain_s: float) -> None:
        """Ends it with the daemon; it has the time that it was promised."""
        self.accepting = False
        await self._halt()
        self.set_state("UNLOADING", "the daemon is stopping")
        await self._end(unheard)

    async def kill(self) -> None:
        """Ends it at once."""
        self.accepting = False
        await self._halt()
        if self.program is not None:
            await self.program.kill()
            self.program = None

    async def leave(self) -> None:
        """Lets it run on, for the next daemon."""
        await self._halt()

    # ---- its life ------------------------------------------------------------------------------

    async def _begin(self) -> Program:
        share = self.share_granted_percent
        program = await Program.start(self._node, self.spec, share)
        try:
            if share != self.share_granted_percent:  # it changed while its GPU was made ready
                program.set_share(self.share_granted_percent)
        except GsliceError:
            await program.kill()
            raise
        self.outdated = False
        self._look_after(program)
        return program

    def _look_after(self, program: Program) -> None:
        self.program, self.accepting = program, True
        self._worry, self._look_s = "", 0.0
        url = program_of(self.spec).health_url
        runs = f"pid {program.pid} runs"
        self.set_state("LOADING", f"{runs}, and {url} does not answer yet" if url else runs)
        self._tasks.start(self._live(program))

    async def _live(self, program: Program) -> None:
        """Asks it how it is until it dies, and starts it again."""
        group = program.note.group.memory
        self._node.oom.watch(program.pid, time.monotonic(), Path(group) if group else None)
        await self.show(self.state)
        ready_s = await self._ask_until_dead(program)
        died_s = time.monotonic()
        how = self._node.oom.explain(program.pid, program.death.result(), died_s)
        self._node.oom.forget(program.pid)
        await program.clear()
        self.program = None
        if how == _DONE and not program_of(self.spec).health_url:
            await self._finish(program.note)
            return
        self._node.event(self.name, EventKind.CRASH, f"its program (pid {program.pid}) {how}")
        served_us = 0 if ready_s is None else round((died_s - ready_s) * 1e6)
        await self._restart(f"its program {how}", served_us, died_s)

    async def _ask_until_dead(self, program: Program) -> float | None:
        """Returns since when it had been ready, on the monotonic clock; None: it never was."""
        ready_s = None
        while True:
            told = await self._asked(program)
            if program.death.done():
                return ready_s
            if not told:
                ready_s = ready_s or time.monotonic()
                await self._look_at_mps(program)
                await self._show_state("READY", self._worry or self._memory_worry(program))
            else:
                await self._show_state("LOADING" if ready_s is None else "UNAVAILABLE", told)
            wanted = program_of(self.spec)
            period_s = wanted.health_period_us / 1e6 if wanted.health_url else _UNASKED_PERIOD_S
            await asyncio.wait([program.death], timeout=period_s)

    async def _asked(self, program: Program) -> str:
        """What ails it; empty: nothing that anybody could see from here."""
        wanted = program_of(self.spec)
        if not wanted.health_url:
            return ""
        asking = asyncio.ensure_future(ailment(wanted.health_url, wanted.health_timeout_us / 1e6))
        try:
            await asyncio.wait({asking, program.death}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else "it has died"
        finally:
            asking.cancel()

    async def _restart(self, how: str, served_us: int, died_s: float) -> None:
        """Starts it again, after a while, until it runs or has died too often."""
        delay_us = self._death(served_us)
        while delay_us is not None:
            self._tell_state("LOADING", f"{how}; it is started again")  # at once: it does not run
            await self.show("LOADING")
            await asyncio.sleep(delay_us / 1e6)
            try:
                program = await self._begin()
            except (GsliceError, OSError) as error:  # also what the node is short of
                how = f"it cannot be started: {error}"
                self._node.event(self.name, EventKind.FAILED, how)
                delay_us = self._death(0)
            else:
                self.restarts.count += 1
                after_ms = (time.monotonic() - died_s) * 1000
                text = f"pid {program.pid} runs in its place, {after_ms:.1f} ms after the death"
                self._node.event(self.name, EventKind.RESTART, text)
                return
        lines = last_lines(self._node.log_path(self.name), LAST_LINES)
        said = " | ".join(shortened(line, LINE_MAX_CHARS) for line in lines)
        reason = f"its program keeps dying, at last {how.removeprefix('its program ')}"
        reason = f"{reason}: {said}" if said else reason
        self._node.event(self.name, EventKind.FAILED, f"given up: {reason}")
        await self.lost_for_good(reason)

    def _death(self, served_us: int) -> int | None:
        now_us = time.monotonic_ns() // 1000
        return self._breaker.death(now_us, served_us=served_us)

    async def _finish(self, note: Note) -> None:
        """It did what it was there for: what it had is for others."""
        self._node.event(self.name, EventKind.UNLOAD, f"its program has finished: {_DONE}")
        try:
            text = to_text(replace(note, finished=True))
            self._node.run_dir.note_program(self.name, text)
        except OSError as error:
            text = f"the next daemon will start its program again: {error}"
            self._node.event(self.name, EventKind.FAILED, text)
        self.admitted, self.share_granted_percent = False, 0.0
        await self._refuse("FINISHED", "UNAVAILABLE", _FINISHED)
        self._on_failed()

    async def _end(self, stage: Callable[[str, str], None]) -> None:
        if (program := self.program) is None:
            return
        wanted = program_of(program.note.spec)
        stage("drain", f"{wanted.stop_signal} to pid {program.pid}")
        in_time = await program.stop()
        self._node.oom.forget(program.pid)
        self.program = None
        stage("exit", "" if in_time else "it did not end in time, and was killed")

    # ---- parts -------------------------------------------------------------------------------

    async def _halt(self) -> None:
        """Begins nothing by itself any more; the program runs on."""
        await self._tasks.cancel()
        await super()._halt()

    async def _show_state(self, state: str, reason: str = "") -> None:
        """Has front-ends go by a state, if it is another one, before anybody can read of it."""
        if (self.state, self.reason) != (state, shortened(reason)):
            await self._frontends.show(Listing(self.spec, state, shortened(reason)))
            self._tell_state(state, reason)

    def _tell_state(self, state: str, reason: str) -> None:
        before = self.state
        self.set_state(state, reason)
        if state != before and "READY" in (state, before):
            self._node.event(self.name, EventKind.STAGE, f"{state}: {reason}" if reason else state)

    def _check_memory(self, spec: FunctionSpec) -> None:
        """What a program takes of a GPU cannot be measured, so it must be said to be counted.

        Raises:
            FailedPrecondition: it is not said, and the GPU has a limit to keep.
        """
        limit = self._node.device(spec.device).memory_limit_bytes
        if spec.device in self._node.gpus and limit and not program_of(spec).memory_bytes:
            raise FailedPrecondition(
                f"function {spec.name}: {spec.device} has a memory limit of {megabytes(limit)}, and"
                " nobody knows what the program will take of that",
                hint="say it: `memory: 20GiB`",
            )

    async def _look_at_mps(self, program: Program) -> None:
        """A program that does not find MPS runs without, and without a word.

        One that loads for long makes its first context late, so until there is one this looks on.
        """
        gpu = self._node.gpus.get(self.spec.device)
        if gpu is None or self.spec.exclusive or time.monotonic() < self._look_s:
            return
        worry = ""
        try:
            if await gpu.misses(members(program.note)):
                worry = "none of its processes is a client of MPS; until one is, no limit holds it"
        except GsliceError as error:
            worry = f"it is not known whether MPS limits it: {error.message}"
        if worry and worry != self._worry:
            self._node.event(self.name, EventKind.SHARE, worry)
        self._worry = worry
        self._look_s = time.monotonic() + _LOOK_PERIOD_S if worry else math.inf

    def _memory_worry(self, program: Program) -> str:
        limit = program.memory_limit_bytes
        if not limit or program.memory_is_limited:
            return ""
        told = f"its memory limit of {megabytes(limit)} is not enforced"
        if self.spec.device in self._node.gpus:
            return f"{told}: it runs without MPS"
        if program.resident_bytes > limit:
            return f"{told}, and it takes more"
        return f"{told}, only watched"
