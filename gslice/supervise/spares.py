"""Spares: workers without a function, an engine's libraries loaded, which take a dead one's place.

What takes a new worker's time is Python and the libraries; a spare has that behind it. It has
touched no device, for what binds a process to one, an MPS share included, is fixed when CUDA
starts. Spares are started one at a time, at low CPU priority, while no worker is on its way: never
in the middle of a recovery.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.control.breaker import SECOND_US, Breaker
from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.device.niceness import restore_child
from gslice.ipc.messages import Assign, Ok, Prepare
from gslice.supervise.logs import SPARES_LOG_NAME, opened
from gslice.supervise.tasks import run_all
from gslice.supervise.worker_launch import start_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.supervise.child import Child
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

AUTO_MAX = 2
PREPARE_TIMEOUT_S = 600.0  # at low priority, on a busy machine
ASSIGN_TIMEOUT_S = 1.0  # a spare that is not there at once is none
_READ_LATE = "CUDA_"  # what libcuda reads, when it starts; all else may have been read already
_LOOK_AGAIN_S = 1.0
_GIVEN_UP_US = 60 * SECOND_US


@dataclass(frozen=True)
class Spare:
    """A spare that waits.

    Attributes:
        engine: Whose libraries it has.
        child: The process.
    """

    engine: str
    child: Child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.process.pid


class Spares:
    """The spares of a node.

    Args:
        node: The node.

    Attributes:
        idle: Those that wait, oldest first.
    """

    def __init__(self, node: Node) -> None:
        self.idle: list[Spare] = []
        self._node = node
        self._breakers: dict[str, Breaker] = {}
        self._not_before_us: dict[str, int] = {}
        self._closed = False

    async def keep(self, demand: Callable[[], Sequence[str] | None]) -> None:
        """Until cancelled: has as many spares of each engine as are wanted.

        Args:
            demand: The engine of every worker that serves; None: one is on its way, and is not to
                be disturbed.
        """
        changes = self._node.changes
        while not self._closed:
            seen, engines = changes.version, demand()
            if engines is not None:
                await self._approach(wanted(engines, self._node.config.spares))
            await changes.wait(seen, _LOOK_AGAIN_S)

    async def take(self, spec: FunctionSpec, environment: Mapping[str, str]) -> Child | None:
        """Makes a spare the worker of a function, if there is one that fits.

        Args:
            spec: Of the function.
            environment: What binds it to its device.

        Returns:
            None: a process has to be started.
        """
        if not (fits(spec, environment) and may_become(self._node, spec.device)):
            return None
        while spare := next((s for s in self.idle if s.engine == spec.engine), None):
            self.idle.remove(spare)
            try:
                await self._assign(spare, spec, environment)
            except (GsliceError, OSError) as error:
                text = f"spare {spare.pid} could not be used: {error}"
                self._node.event(SPARES_LOG_NAME, EventKind.FAILED, text)
                await spare.child.kill()
            except BaseException:
                spare.child.abort()
                raise
            else:
                return spare.child
        return None

    async def close(self) -> None:
        """Ends all, for good. They hold nothing that has to be given back in order."""
        self._closed = True
        await run_all(self._end(spare) for spare in list(self.idle))

    # ---- parts -----------------------------------------------------------------------------

    async def _approach(self, goal: Counter[str]) -> None:
        """Ends those too many, and starts one that is missing."""
        have = Counter(spare.engine for spare in self.idle)
        for spare in reversed(list(self.idle)):
            if have[spare.engine] > goal[spare.engine]:
                have[spare.engine] -= 1
                await self._end(spare)
        now_us = time.monotonic_ns() // 1000
        for engine in goal - have:
            if now_us >= self._not_before_us.get(engine, 0):
                await self._add(engine)
                return

    async def _add(self, engine: str) -> None:
        child: Child | None = None
        try:
            log = self._node.log_path(SPARES_LOG_NAME)
            child = await start_process(self._node, log, {}, lowered=True)
            await child.request(Prepare(engine), Ok, timeout_s=PREPARE_TIMEOUT_S)
        except GsliceError as error:
            self._pause(engine, EventKind.FAILED, f"no spare for {engine}: {error.message}")
        else:
            spare, child = Spare(engine, child), None
            self.idle.append(spare)
            spare.child.process.death.add_done_callback(
                lambda death: self._lost(spare, death.result())
            )
            self._node.changes.notify()
        finally:
            if child is not None:
                await child.kill()

    async def _assign(
        self, spare: Spare, spec: FunctionSpec, environment: Mapping[str, str]
    ) -> None:
        restore_child(spare.pid)
        order = Assign(dict(environment), self._node.users.get(spec.device))
        with opened(self._node.log_path(spec.name)) as log_fd:
            await spare.child.request(order, Ok, fds=(log_fd,), timeout_s=ASSIGN_TIMEOUT_S)

    async def _end(self, spare: Spare) -> None:
        with contextlib.suppress(ValueError):  # it was taken, or has died
            self.idle.remove(spare)
            await spare.child.kill()

    def _lost(self, spare: Spare, how: str) -> None:
        if spare in self.idle:
            self.idle.remove(spare)
            text = f"spare {spare.pid} for {spare.engine} {how}"
            self._pause(spare.engine, EventKind.CRASH, text)

    def _pause(self, engine: str, kind: EventKind, text: str) -> None:
        now_us = time.monotonic_ns() // 1000
        delay_us = self._breakers.setdefault(engine, Breaker()).death(now_us)
        self._not_before_us[engine] = now_us + (_GIVEN_UP_US if delay_us is None else delay_us)
        self._node.event(SPARES_LOG_NAME, kind, text)
        self._node.changes.notify()


def engines_in_use(node: Node, functions: Iterable[Function]) -> list[str] | None:
    """The engine of every worker that serves; None while any is on its way, or measured.

    Those in a host are not counted: no spare can take their place in it.
    """
    if node.stands:
        return None
    functions = list(functions)
    workers = [w for f in functions for d in f.deployments for w in d.workers]
    loading = (f.state == "LOADING" for f in functions if f.spec.program is None)
    if any(loading) or not all(w.ready for w in workers):
        return None
    serving = [f.spec for f in functions if f.serving and f.spec.program is None]
    places = ((spec, device) for spec in serving for device in spec.placed)
    alone = [
        spec
        for spec, device in places
        if node.limiter(device, spec) != "green" and may_become(node, device)
    ]
    return [spec.engine for spec in alone for _ in range(spec.instances)]


def may_become(node: Node, device: str) -> bool:
    """Whether a spare can be a worker of a device: all are started to become other users, or none.

    Of the daemon's environment they know as much as those may.
    """
    return not node.users or device in node.users


def wanted(engines: Sequence[str], limit: int | None) -> Counter[str]:
    """How many spares each engine should have.

    Args:
        engines: Of every worker that serves.
        limit: Most in all, and of an engine as many as it has workers; None: one of an engine,
            AUTO_MAX in all. The engine with most workers comes first.
    """
    serving = Counter(engines)
    rounds = 1 if limit is None else max(serving.values(), default=0)
    in_turn = [
        engine
        for number in range(rounds)
        for engine, workers in serving.most_common()
        if number < workers
    ]
    return Counter(in_turn[: AUTO_MAX if limit is None else limit])


def fits(spec: FunctionSpec, environment: Mapping[str, str]) -> bool:
    """Whether a running process can still become a worker of this function.

    What the dynamic loader, Python or a library reads at its start comes too late for a spare, and
    of a user's variables it is not known when they are read.
    """
    return not spec.environment and all(name.startswith(_READ_LATE) for name in environment)
