"""Whether a function is loaded, or rests until a request comes.

What rests keeps its segment, its share and its place in the listings. How no request is lost:
front-ends are told first that it is COLD, and tell of each request from then on, after they have
queued it. Then its workers stop pulling; if anything is queued by now, they go on. What is queued
later is told of, and loads it again once the order to rest is done.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, ResourceExhausted, Unavailable
from gslice.core.events import EventKind
from gslice.core.units import format_duration
from gslice.supervise.tasks import Tasks, run_all

if TYPE_CHECKING:
    from gslice.supervise.budget import Budget
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node
    from gslice.supervise.recall import Recalled
    from gslice.supervise.worker import Worker


class Residency:
    """Loads and unloads one function as requests come and stay away, or as others need its memory.

    Args:
        node: The node.
        function: Which.
        budget: What it may take of the node.

    Attributes:
        cold_starts: Loads because of a request.
        load_us: How long the last load took; 0: not known.
    """

    def __init__(self, node: Node, function: Function, budget: Budget) -> None:
        self.cold_starts = 0
        self.load_us = 0
        self._node = node
        self._function = function
        self._budget = budget
        self._tasks = Tasks(function.name, node.event)
        self._resting = self._waking = False
        self._used_ms = 0
        self._failed = 0  # requests that had ended by then otherwise than well

    def loaded(self, load_us: int) -> None:
        """It serves from now on; 0: nobody saw how long its load took."""
        self._used_ms, self._failed = _now_ms(), self._count_failed()
        if not load_us and (recalled := self._budget.recalled(self._function.spec)):
            load_us = recalled.load_us
        self.load_us = load_us or self.load_us

    async def cancel(self) -> None:
        """Leaves it as it is."""
        await self._tasks.cancel()
        self._resting = self._waking = False

    # ---- orders ----------------------------------------------------------------------------

    def look(self) -> None:
        """Has it rest if no request came for too long; called every now and then."""
        if (failed := self._count_failed()) != self._failed:
            self._used_ms, self._failed = _now_ms(), failed
        if not self._resting and self._is_idle():
            self._resting = True
            self._tasks.start(self._rest_if_idle())

    def wake(self) -> None:
        """A request came: it is loaded, unless it serves or is being loaded."""
        if not self._waking:
            self._waking = True
            self._tasks.start(self._wake())

    @property
    def evictable(self) -> bool:
        """Whether it may be unloaded now because others need its memory."""
        function = self._function
        return function.spec.residency != "pinned" and not function.lock.locked() and self._may_rest

    @property
    def used_ms(self) -> int:
        """When it was used last, or loaded: by the wall clock, since the epoch."""
        segment = self._function.segment
        return max(self._used_ms, segment.stats()["last_inference_ms"] if segment else 0)

    async def evict(self, other: str) -> bool:
        """Has it rest because another function needs its memory; only if it is `evictable`.

        Returns:
            False: a request came meanwhile; it serves on.
        """
        async with self._function.lock:  # free, as it is evictable
            return await self._rest(f"its memory went to {other}; the next request loads it")

    async def begin_cold(self, recalled: Recalled) -> None:
        """Opens it without a load, by what an earlier load showed; the caller holds its lock.

        Raises:
            ResourceExhausted: no memory is left for its segment.
        """
        self.load_us = recalled.load_us
        self._function.open_cold(recalled.signature)
        self._function.set_state("COLD", "the first request loads it")
        await self._function.show("COLD")

    # ---- parts -----------------------------------------------------------------------------

    @property
    def _may_rest(self) -> bool:
        """Nothing goes on in it, and nobody is replacing a worker."""
        function = self._function
        deployment = function.deployment
        if deployment is None or function.state != "READY" or list(function.restarts.tasks):
            return False
        return deployment.ready == deployment.wanted and deployment.idle

    def _is_idle(self) -> bool:
        spec = self._function.spec
        if spec.residency != "cold" or not self._may_rest:
            return False
        return (_now_ms() - self.used_ms) * 1000 >= spec.idle_after_us

    def _count_failed(self) -> int:
        """What fails was asked for, too; of successes the segment itself knows the time."""
        segment = self._function.segment
        outcome = segment.stats()["outcome"] if segment else {}
        return sum(count for name, count in outcome.items() if name != "ok")

    async def _rest_if_idle(self) -> None:
        try:
            async with self._function.lock:
                if self._is_idle():
                    idle_after = format_duration(self._function.spec.idle_after_us)
                    await self._rest(f"no request for {idle_after}; the next one loads it")
        finally:
            self._resting = False

    async def _rest(self, reason: str) -> bool:
        function, deployment = self._function, self._function.deployment
        assert deployment is not None
        await function.show("COLD", reason)
        rests = False
        try:
            # One that died meanwhile is being replaced.
            rests = not list(function.restarts.tasks) and _stop_pulling(deployment)
        finally:
            if not rests:
                await function.show("READY")
        if not rests:
            return False
        function.set_state("COLD", reason)
        self._node.event(function.name, EventKind.RESIDENCY, f"unloaded: {reason}")
        # To its end, even if whoever needs the memory does not wait for it.
        await asyncio.shield(self._tasks.start(self._let_go(deployment)))
        return True

    async def _let_go(self, deployment: Deployment) -> None:
        await run_all(deployment.instances.let_go(worker) for worker in deployment.workers)
        await self._function.kept.drop_all("the function rests")
        if not deployment.idle:  # a worker died with a request that nobody will tell of any more
            self.wake()

    async def _wake(self) -> None:
        try:
            async with self._function.lock:
                deployment = self._function.deployment
                if deployment is not None and self._function.state == "COLD":
                    await self._load(deployment)
        finally:
            self._waking = False

    async def _load(self, deployment: Deployment) -> None:
        function = self._function
        begun_s = time.monotonic()
        function.set_state("LOADING", "a request wants it")
        try:
            needs = self._budget.needed(deployment.spec)
            async with self._budget.promised(needs, evict=True):
                await _start_workers(deployment, self._budget)
        except GsliceError as error:
            await self._not_loaded(deployment, error)
            return
        except OSError as error:  # the node is short of something, which may pass
            await self._not_loaded(deployment, Unavailable(f"its worker does not start: {error}"))
            return
        load_us = round((time.monotonic() - begun_s) * 1e6)
        self.cold_starts += 1
        self.loaded(load_us)
        if deployment.ready:  # else it died at once, and another is on its way
            function.set_state("READY")
        await function.show("READY")
        text = f"a request came: serves after {load_us / 1e6:.2f} s"
        self._node.event(function.name, EventKind.RESIDENCY, text)

    async def _not_loaded(self, deployment: Deployment, error: GsliceError) -> None:
        """Answers what waits; it stays as it is, unless this happens again and again."""
        function = self._function
        await function.restarts.cancel()  # of those that died while others were loaded
        self._waking = False  # what is queued from now on is not answered here: it tells of itself
        reason = error.message.removeprefix(f"function {function.name}: ")
        self._node.event(function.name, EventKind.FAILED, f"not loaded for a request: {reason}")
        if not isinstance(error, ResourceExhausted) and function.restarts.gives_up(deployment):
            await function.lost_for_good(f"could not be loaded for a request: {reason}")
            return
        function.set_state("COLD", f"could not be loaded: {reason}")
        deployment.fail_queued(function.reason)
        await function.show("COLD")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _stop_pulling(deployment: Deployment) -> bool:
    """Lets no worker claim any more; False: something is queued, so that they go on."""
    segment, workers = deployment.segment, deployment.workers
    assert segment is not None
    for worker in workers:
        segment.flip(worker.instance, None)
    goes_on = segment.counts()["queued"] > 0
    for worker in workers:
        _settle(worker, goes_on)
        if goes_on:
            segment.flip(None, worker.instance)
    return not goes_on


def _settle(worker: Worker, goes_on: bool) -> None:
    worker.ready = goes_on
    worker.draining = worker.expected_to_end = not goes_on


async def _start_workers(deployment: Deployment, budget: Budget) -> None:
    """Starts all workers on the segment that is there; on failure none of them is left."""
    try:
        places = deployment.spec.placed * deployment.spec.instances
        await run_all(deployment.prepare(device) for device in places)
        await budget.settle_memory(deployment.spec)
    except BaseException:
        new = [worker for worker in deployment.workers if not worker.draining]
        await run_all(deployment.instances.discard(worker) for worker in new)
        raise
    deployment.serve()
