"""One edition of a function as it runs: its segment, and the workers that serve it.

A function that is loaded anew gets a second deployment beside the first; the swap lies between.
Where only its share changes, or its devices do, workers come and go on the segment that is there.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, LoadFailed, Unavailable
from gslice.core.events import EventKind
from gslice.supervise.news import unheard
from gslice.supervise.replicas import Replicas
from gslice.supervise.resize import Swap
from gslice.supervise.segments import make_segment
from gslice.supervise.tasks import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gslice._native import Segment
    from gslice.core.types import FunctionSpec, Signature
    from gslice.supervise.budget import Budget
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.node import Node
    from gslice.supervise.worker import Worker

_IDLE_POLL_S = 0.005


class Deployment:
    """A function's segment and workers.

    Args:
        node: The node.
        spec: What is deployed.
        share_percent: The function's share of each of its devices.
        frontends: Who leases slots and takes answers.
        on_lost: Called after a worker's death that nobody ordered, when its requests are queued
            again: the deployment, the device, how the worker died, whether it may be to blame
            itself, and when.

    Attributes:
        share_percent: What workers that start from now on get their part of.
        segment: None until the model is loaded and its signature known.
        signature: Likewise.
        instances: The workers, ready or not.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        share_percent: float,
        frontends: Frontends,
        on_lost: Callable[[Deployment, str, str, bool, float], None],
    ) -> None:
        self.node = node
        self.spec = spec
        self.share_percent = share_percent
        self.signature: Signature | None = None
        self.instances = Replicas(node, spec, frontends, lambda *death: on_lost(self, *death))
        self._frontends = frontends

    @property
    def segment(self) -> Segment | None:
        """What its workers serve."""
        return self.instances.segment

    @property
    def workers(self) -> list[Worker]:
        """Those that run, ready or not."""
        return list(self.instances)

    # ---- start -----------------------------------------------------------------------------

    async def start(self, budget: Budget, stage: Callable[[str, str], None]) -> None:
        """Starts, loads and warms all instances; none may pull yet.

        On failure nothing of it is left.

        Args:
            budget: What it may take of the node.
            stage: Told of each stage.

        Raises:
            GsliceError: why it cannot be served.
        """
        try:
            stage("start", f"workers: {self.wanted}")
            places = self.spec.placed * self.spec.instances
            await run_all(self.instances.on(each).start(self._instance_share) for each in places)
            stage("load", self._source)
            signatures = await run_all(self.instances.of(w).load(w) for w in self.instances)
            await budget.settle_memory(self.spec)
            self.open_segment(signatures[0], budget.segment_bytes())
            stage("warm", "")
            await self._attach_all(signatures[0])
        except BaseException:
            await self.instances.discard_all()
            self._close()
            raise

    def adopt(self, segment: Segment, signature: Signature, workers: Sequence[Worker]) -> None:
        """Takes over what served before this daemon started."""
        self.instances.segment = segment
        self.signature = signature
        for worker in workers:
            self.instances.of(worker).adopt(worker)

    async def replace(self, device: str) -> None:
        """Starts one more worker on the segment, in place of one that died, and lets it pull.

        Args:
            device: Where that was.

        Raises:
            GsliceError: it could not be started; nothing of it is left.
        """
        worker = await self.prepare(device)
        if self.lacks(device):
            self._flip(None, worker)
        else:  # a shadow took the dead one's place, or the replica is elsewhere by now
            await self.instances.discard(worker)

    async def prepare(
        self, device: str, stage: Callable[[str, str], None] = unheard, *, gently: bool = False
    ) -> Worker:
        """Starts, loads and warms one more worker on the segment; it may not pull yet.

        Args:
            device: Where.
            stage: Told of each stage.
            gently: What serves meanwhile computes first.

        Raises:
            GsliceError: it could not be started; nothing of it is left.
        """
        stage("start", "")
        there = self.instances.on(device)
        worker = await there.start(self._instance_share)
        try:
            stage("load", self._source)
            signature = await there.load(worker, self.signature, gently=gently)
            if signature != self.signature:
                raise LoadFailed(
                    f"function {self.spec.name}: the model changed its inputs or outputs",
                    hint=f"load it anew: gslice load {self.spec.name}",
                )
            stage("warm", "")
            await self._attach(worker)
        except BaseException:
            await there.discard(worker)
            raise
        return worker

    def serve(self) -> None:
        """Lets all instances pull that are not about to end."""
        for device in self.spec.placed:
            self.serve_on(device)

    def serve_on(self, device: str) -> None:
        """The same of the instances of one device."""
        for worker in self.instances.on(device):
            if not worker.draining:
                self._flip(None, worker)

    async def swap(
        self, old: Worker, shadow: Worker, stage: Callable[[str, str], None]
    ) -> Swap | None:
        """Lets a shadow take over from a worker, which finishes what it has claimed and ends.

        Args:
            old: It may have died while the shadow was prepared.
            shadow: Made by `prepare`.
            stage: Told of each stage.

        Returns:
            What was measured; None: another worker had replaced the dead one by then.

        Raises:
            GsliceError: the function's lock is out of reach; the shadow is dropped.
        """
        assert self.segment is not None
        lives = old in self.workers and not old.death.done()
        if not lives and not self.lacks(shadow.device):
            await self.instances.discard(shadow)
            return None
        stage("swap", f"worker {shadow.pid} for {old.pid}")
        try:
            flip_ns = self._flip(old if lives else None, shadow)
        except GsliceError:
            await self.instances.discard(shadow)
            raise
        if lives:
            await self.instances.let_go(old, stage)
        wait_ns = self.segment.instance_stamps(shadow.instance)["first_wait_ns"]
        return Swap(flip_ns / 1000, wait_ns / 1000 if wait_ns >= 0 else -1.0)

    # ---- shares, front-ends, health -----------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many instances are warm, and serve or are about to."""
        return sum(worker.ready for worker in self.instances)

    @property
    def wanted(self) -> int:
        """How many there should be, on all devices."""
        return self.spec.instances * len(self.spec.placed)

    def lacks(self, device: str) -> bool:
        """Whether a device should have more that pull than it has."""
        return device in self.spec.placed and self.instances.pulling(device) < self.spec.instances

    @property
    def missing(self) -> list[str]:
        """The device of each instance that there should be, and is not even on its way."""
        there = [worker.device for worker in self.instances]
        lacking = ([d] * (self.spec.instances - there.count(d)) for d in self.spec.placed)
        return [device for devices in lacking for device in devices]

    @property
    def share_effective_percent(self) -> float:
        """What the limiters of all instances of a device read back, on average over devices."""
        pulling = [worker for worker in self.instances if self.instances.pulls(worker)]
        devices = len({worker.device for worker in pulling}) or 1
        return sum(worker.share_effective_percent for worker in pulling) / devices

    @property
    def limiter(self) -> str:
        """What enforces the share; empty while nothing runs."""
        return next((w.limiter for w in self.instances if w.ready), "")

    async def set_share(self, share_percent: float) -> None:
        """Changes the share where that can be done in place; those that still load follow."""
        self.share_percent = share_percent
        await run_all(self._correct_share(worker) for worker in self.instances if worker.ready)

    def stale(self, device: str = "") -> list[Worker]:
        """Workers that must be replaced for the share to be what it should: of a device, or all."""
        share, workers = self._instance_share, [w for w in self.instances if w.ready]
        there = [worker for worker in workers if worker.device == (device or worker.device)]
        return [worker for worker in there if self.path(worker, share) == "shadow"]

    def path_to(self, share_percent: float) -> str:
        """How it gets to another share: `none`, `in place` or `shadow`."""
        share = share_percent / self.spec.instances
        paths = {self.path(worker, share) for worker in self.instances if worker.ready}
        return next((path for path in ("shadow", "in place") if path in paths), "none")

    def path(self, worker: Worker, instance_share_percent: float) -> str:
        """How one of its workers gets to another share; see `Instances.path`."""
        return self.instances.of(worker).path(worker, instance_share_percent)

    def add_frontend(self, index: int, eventfd: int) -> None:
        """Lets a front-end in; workers that are not attached yet are told when they are."""
        if self.segment is not None:
            self.segment.activate_frontend(index)
        for worker in self.instances.attached:
            worker.add_frontend(index, eventfd)

    def remove_frontend(self, index: int) -> None:
        """Takes the leases of a dead front-end back."""
        if self.segment is not None:
            self.segment.reap_frontend(index)
        for worker in self.instances.attached:
            worker.remove_frontend(index)

    # ---- end -------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Has all accepted requests answered; the front-ends must accept no new ones by now.

        Returns:
            False: some were not answered in time. They are answered with an error.
        """
        if self.segment is None:
            return True
        deadline_s = time.monotonic() + timeout_s
        idle = await self.settle(deadline_s)
        left_s = max(0.1, deadline_s - time.monotonic())
        drained = await self.instances.drain(left_s)
        return idle and drained

    async def settle(self, deadline_s: float) -> bool:
        """The first half of `drain`: its workers could go on. If all died, one more is started.

        Args:
            deadline_s: On the monotonic clock.

        Returns:
            False: some were not answered in time.
        """
        # Shared memory has no event for "idle" that the daemon could wait for.
        while not (idle := self.idle) and time.monotonic() < deadline_s:
            if not self.instances and not await self._replaced(deadline_s - time.monotonic()):
                break
            await asyncio.sleep(_IDLE_POLL_S)
        return idle

    async def stop(self) -> None:
        """Ends all workers in order; what is still queued is answered with an error."""
        await self.instances.stop_all()
        self._close()

    async def kill(self) -> None:
        """Ends all workers at once; what is still queued is answered with an error."""
        await self.instances.kill_all()
        self._close()

    def detach(self) -> None:
        """Lets the workers run on without us."""
        for worker in self.instances:
            worker.detach()

    def forget_weights(self) -> None:
        """Nobody takes a dead worker's place: what its weights took is free, too."""
        self.instances.forget_weights()

    def fail_queued(self, reason: str) -> None:
        """Answers everything that is queued with UNAVAILABLE."""
        if self.segment is not None:
            message = f"function {self.spec.name}: {reason}"
            self._frontends.wake(self.segment.fail_queued(Unavailable.code, message))

    # ---- parts -----------------------------------------------------------------------------

    def _close(self) -> None:
        """Lets go of the segment: its memory must not wait until Python looks for cycles."""
        self.fail_queued("the function was stopped")
        self.instances.segment = None

    def open_segment(self, signature: Signature, budget_bytes: int) -> None:
        """Makes the segment, for a model of that signature.

        Raises:
            ResourceExhausted: the budget is too small for it.
        """
        self.signature = signature
        segment = make_segment(self.spec, signature, budget_bytes)
        for index in self._frontends.eventfds():
            segment.activate_frontend(index)
        self.instances.segment = segment

    @property
    def _source(self) -> str:
        return self.spec.model or self.spec.python or self.spec.engine

    def _flip(self, old: Worker | None, new: Worker) -> int:
        """Returns how long it took, in ns."""
        assert self.segment is not None
        took_ns = self.segment.flip(None if old is None else old.instance, new.instance)
        if old is not None:
            old.ready, old.draining = False, True
        return took_ns

    async def _attach_all(self, signature: Signature) -> None:
        """Where times of its batches are wanted, one takes them when the others are warm."""
        one = 1 if self.node.times_wanted(self.spec) else 0
        await run_all(self._attach(worker) for worker in self.workers[one:])
        await run_all(self._attach(worker, signature.sizes) for worker in self.workers[:one])

    async def _attach(self, worker: Worker, timed: Sequence[int] = ()) -> None:
        await self.instances.of(worker).attach(worker, timed)
        await self._correct_share(worker)

    async def _correct_share(self, worker: Worker) -> None:
        """In place, and again if it changed meanwhile."""
        while self.path(worker, self._instance_share) == "in place":
            await self.instances.of(worker).set_share(worker, self._instance_share)

    @property
    def _instance_share(self) -> float:
        return self.share_percent / self.spec.instances

    async def _replaced(self, timeout_s: float) -> bool:
        device = next(filter(self.node.usable, self.spec.placed), self.spec.device)
        try:
            async with asyncio.timeout(timeout_s):
                await self.replace(device)
        except TimeoutError:
            reason = "another worker takes too long"
        except GsliceError as error:
            reason = error.message
        else:
            return True
        text = f"nobody can answer what still waits: {reason}"
        self.node.event(self.spec.name, EventKind.FAILED, text)
        return False

    @property
    def idle(self) -> bool:
        """No request is in its segment that is not answered."""
        assert self.segment is not None
        counts = self.segment.counts()
        return counts["leased"] == counts["queued"] == counts["claimed"] == 0
