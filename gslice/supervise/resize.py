"""Changing a share, or the code, of a function that serves: in place, or by a shadow.

A shadow is loaded and warmed beside the worker that it replaces, on the same segment, and takes
over by one flip. Until then nothing has happened: what goes wrong drops the shadow alone. On a
device one shadow at a time is prepared, so that the excess is one instance's share at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from gslice.control.memory import sizes
from gslice.core.errors import Cancelled, FailedPrecondition, GsliceError, Unavailable
from gslice.core.events import EventKind
from gslice.supervise.budget import Need
from gslice.supervise.news import recorded
from gslice.supervise.recall import largest
from gslice.supervise.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from gslice.core.types import ShareBounds
    from gslice.supervise.budget import Budget
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node
    from gslice.supervise.worker import Worker

_BESIDE = "shadow beside the primary"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Swap:
    """One shadow that took over.

    Attributes:
        flip_us: How long neither worker could claim: the flip, with the wait for the lock.
        hole_us: The dispatch wait of the first request after it; -1: none came until the old
            worker had ended.
    """

    flip_us: float
    hole_us: float


@dataclass
class Resized:
    """What a resize did.

    Attributes:
        path: `shadow`, `in place`, or `none`.
        share_granted_percent: The function's share of each of its devices.
        share_effective_percent: As read back.
        excess_percent: Share that a shadow took of the device beside what it replaced, at most.
        prepare_ms: From the start of shadows until they were warm, together; in place, the longest
            preparation of an instance.
        extra_memory_bytes: Host memory of the largest shadow.
        extra_device_memory_bytes: What the largest one took of its GPU.
        swaps: One for each instance that was replaced.
    """

    path: str = "none"
    share_granted_percent: float = 0.0
    share_effective_percent: float = 0.0
    excess_percent: float = 0.0
    prepare_ms: float = 0.0
    extra_memory_bytes: int = 0
    extra_device_memory_bytes: int = 0
    swaps: list[Swap] = field(default_factory=list)


@dataclass(frozen=True)
class ResizePlan:
    """What a resize would do.

    Attributes:
        path: As in Resized.
        share_percent: What the function would be granted.
        changes: Of every function of the node whose share would change: from, to.
        shadow: What a shadow needs of the memory of host or GPU, by what for; empty: none is due.
    """

    path: str
    share_percent: float
    changes: dict[str, tuple[float, float]]
    shadow: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For people."""
        changes = [f"{name} {old:g}% -> {new:g}%" for name, (old, new) in self.changes.items()]
        if not changes:
            return "it has that share already"
        text = f"{self.path}: {', '.join(changes)}"
        return f"{text}; the shadow needs {sizes(self.shadow)}" if self.shadow else text


class Resizing:
    """Brings a function's workers to the share that was granted.

    Args:
        node: The node.
        function: Whose share it is.
        budget: What shadows may take of the node.

    Attributes:
        last_shadow: What the last resize by shadows did; None: there was none.
    """

    def __init__(self, node: Node, function: Function, budget: Budget) -> None:
        self.last_shadow: Resized | None = None
        self._node = node
        self._function = function
        self._budget = budget
        self._tasks = Tasks(function.name, node.event)
        self._waiting = False
        self._ordered = self._begun = 0  # orders that came, and the last of them that began
        self._newer = asyncio.Event()

    # ---- orders ----------------------------------------------------------------------------

    def order(self) -> None:
        """A share was granted; if it is not the one that serves, that will be seen to."""
        if not self._waiting and self._is_stale():
            self._waiting = True
            self._tasks.start(self._follow())

    @contextlib.asynccontextmanager
    async def ordered(self) -> AsyncIterator[None]:
        """A newer order has come: what is being prepared is dropped, what waits never begins.

        Inside, the function's lock is held. An order that is given up while it waits is over, too.
        """
        self._ordered += 1
        order = self._ordered
        self._newer.set()
        try:
            async with self._function.lock:
                self._begun = order
                yield
        finally:
            self._begun = max(self._begun, order)

    def check_newest(self) -> None:
        """Raises Cancelled if an order has come after the one that was begun."""
        if self._ordered != self._begun:
            raise self._superseded()

    async def cancel(self) -> None:
        """Leaves the share as it is."""
        await self._tasks.cancel()
        self._waiting = False

    def check_possible(self, share: ShareBounds) -> None:
        """Checks that there is something whose share can change.

        Args:
            share: To what.

        Raises:
            FailedPrecondition: it does not serve.
        """
        function = self._function
        if function.deployment is None or not function.serving:
            raise FailedPrecondition(
                f"function {function.name} is {function.state}; only one that serves can be"
                " resized",
                hint=f"change its share in node.yaml, or load it: gslice load {function.name}",
            )

    def path_to(self, share_percent: float) -> str:
        """How it gets to another share: `none`, `in place` or `shadow`."""
        deployment = self._function.deployment
        return deployment.path_to(share_percent) if deployment is not None else "none"

    def shadow_need(self, deployment: Deployment, device: str) -> Need:
        """What a shadow takes on a device while it is beside the worker that it replaces."""
        memory = largest([worker.memory for worker in deployment.workers if worker.ready])
        gpu = self._node.gpus.get(device)
        if gpu is not None:
            memory = gpu.weights.to_come(deployment.spec, memory)
        return Need(self._function.name, device, memory, _BESIDE)

    # ---- the resize --------------------------------------------------------------------------

    async def carry_out(self, stage: Callable[[str, str], None]) -> Resized:
        """Replaces every worker that has another share than was granted.

        The caller holds the function's lock, and has let the share be set in place where it can.

        Args:
            stage: Told of each stage.

        Raises:
            Cancelled: a newer order came.
            GsliceError: a shadow could not be prepared; the worker that it was for serves on.
        """
        deployment, share = self._function.deployment, self._function.share_granted_percent
        assert deployment is not None
        part = share / deployment.spec.instances
        resized = Resized(share_granted_percent=share)
        self.check_newest()
        self._newer.clear()
        for device in deployment.spec.placed:
            grows = share > sum(worker.share_percent for worker in deployment.stale(device))
            async with self._node.turns[device].take(grows=grows):
                while stale := deployment.stale(device):
                    async with self._budget.promised([self.shadow_need(deployment, device)]):
                        await self._replace(deployment, stale[0], resized, stage)
        resized.share_effective_percent = deployment.share_effective_percent
        if resized.path == "shadow":
            self.last_shadow = resized
            return resized
        if any(w.ready and w.hosted and w.share_percent != part for w in deployment.workers):
            raise Unavailable(
                f"function {self._function.name} keeps its share of"
                f" {resized.share_effective_percent:g}%: it could not be changed in place",
                hint=f"gslice events {self._function.name} says why",
            )
        resized.prepare_ms = max((w.prepared_us for w in deployment.workers), default=0.0) / 1000
        return resized

    # ---- the renewal -------------------------------------------------------------------------

    async def renew(self, stage: Callable[[str, str], None]) -> None:
        """Replaces every worker that an earlier daemon started by a shadow at the same share.

        Whatever is ordered meanwhile comes first, and this goes on with what it leaves.

        Args:
            stage: Told of each worker, as its shadow is about to start.

        Raises:
            GsliceError: a shadow could not be prepared; the worker that it was for serves on.
        """
        function = self._function
        while self._inherited():
            # Whoever has ordered something newer waits for the lock, and gets it first.
            async with function.lock:
                with contextlib.suppress(Cancelled):
                    await self._renew_one(stage)

    async def _renew_one(self, stage: Callable[[str, str], None]) -> None:
        deployment, name = self._function.deployment, self._function.name
        if deployment is None or not (inherited := self._inherited()):
            return
        self.check_newest()
        self._newer.clear()
        device = inherited[0].device
        # Others who change their shares go first: a renewal makes no room, and nobody waits for it.
        async with self._node.turns[device].take(grows=True):
            if not (old := [each for each in self._inherited() if each.device == device]):
                return
            stage("worker", f"{name}: another for {old[0].pid}")
            if old[0].hosted:  # code is the process's
                self._node.hosts.renew(device)
            async with self._budget.promised([self.shadow_need(deployment, device)]):
                tell = recorded(self._node.event, name)
                await self._replace(deployment, old[0], Resized(), tell)

    def _inherited(self) -> list[Worker]:
        deployment = self._function.deployment
        workers = deployment.workers if deployment is not None else []
        return [worker for worker in workers if worker.inherited and worker.ready]

    # ---- one shadow --------------------------------------------------------------------------

    async def _replace(
        self,
        deployment: Deployment,
        old: Worker,
        resized: Resized,
        stage: Callable[[str, str], None],
    ) -> None:
        begun_s = time.monotonic()
        shadow = await self._unless_newer(deployment.prepare(old.device, stage, gently=True))
        resized.path = "shadow"
        resized.prepare_ms += (time.monotonic() - begun_s) * 1000
        resized.excess_percent = max(resized.excess_percent, shadow.share_percent)
        extra = shadow.memory
        resized.extra_memory_bytes = max(resized.extra_memory_bytes, extra.host_bytes)
        resized.extra_device_memory_bytes = max(
            resized.extra_device_memory_bytes,
            extra.device_bytes - (0 if shadow.made_bytes else extra.shared_bytes),
        )
        # From here on it is done: a stop of the daemon waits for the end of it.
        swap = asyncio.ensure_future(deployment.swap(old, shadow, stage))
        try:
            if (swapped := await asyncio.shield(swap)) is not None:
                resized.swaps.append(swapped)
        except asyncio.CancelledError:
            await asyncio.wait([swap])
            raise

    async def _unless_newer(self, work: Coroutine[None, None, _T]) -> _T:
        """The result of what is dropped as soon as a newer order comes."""
        task = asyncio.ensure_future(work)
        newer = asyncio.ensure_future(self._newer.wait())
        try:
            await asyncio.wait({task, newer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dropped = not task.done()
            task.cancel()
            newer.cancel()
            await asyncio.wait({task, newer})
        if dropped:
            raise self._superseded()
        return task.result()

    def _superseded(self) -> Cancelled:
        return Cancelled(
            f"function {self._function.name}: a newer order took the place of this one"
        )

    # ---- shares that change because others' do ------------------------------------------------

    def _is_stale(self) -> bool:
        return any(deployment.stale() for deployment in self._function.lasting)

    async def _follow(self) -> None:
        function = self._function
        async with function.lock:
            self._waiting = False
            deployment = function.deployment
            if deployment is None or not function.accepting or not deployment.stale():
                return
            before = deployment.share_effective_percent
            try:
                await self.carry_out(recorded(self._node.event, function.name))
            except Cancelled:
                return  # whoever ordered something newer sees to it
            except GsliceError as error:
                text = f"keeps its share of {before:g}%: {error.message}"
                self._node.event(function.name, EventKind.SHARE, text)
