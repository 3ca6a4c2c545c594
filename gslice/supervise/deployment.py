"""One edition of a function as it runs: its segment, and the workers that serve it.

A function that is loaded anew gets a second deployment beside the first; the swap lies between.
Where only its share changes, its workers are replaced on the segment that they serve.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice._native import Segment
from gslice.control.slots import slot_classes
from gslice.core.errors import GsliceError, LoadFailed, Unavailable
from gslice.core.events import EventKind
from gslice.supervise.instances import Instances
from gslice.supervise.news import unheard
from gslice.supervise.resize import Swap
from gslice.supervise.tasks import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        share_percent: The function's share of its device.
        frontends: Who leases slots and takes answers.
        on_lost: Called after a worker's death that nobody ordered, when its requests are queued
            again: the deployment, how the worker died, whether it may be to blame itself, and when.

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
        on_lost: Callable[[Deployment, str, bool, float], None],
    ) -> None:
        self.node = node
        self.spec = spec
        self.share_percent = share_percent
        self.signature: Signature | None = None
        self.instances = Instances(
            node, spec, frontends, lambda how, blamed, died_s: on_lost(self, how, blamed, died_s)
        )
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
            stage("start", f"{self.spec.instances} worker(s)")
            share = self._instance_share
            await run_all(self.instances.start(share) for _ in range(self.spec.instances))
            stage("load", self.spec.model or self.spec.python or self.spec.engine)
            signatures = await run_all(self.instances.load(w) for w in self.instances)
            await budget.settle_memory(self.spec)
            self.open_segment(signatures[0], budget.segment_bytes())
            stage("warm", "")
            await self._attach_all(signatures[0])
        except BaseException:
            await run_all(self.instances.discard(worker) for worker in self.instances)
            self._close()
            raise

    def adopt(self, segment: Segment, signature: Signature, workers: Sequence[Worker]) -> None:
        """Takes over what served before this daemon started."""
        self.instances.segment = segment
        self.signature = signature
        for worker in workers:
            self.instances.adopt(worker)

    async def replace(self) -> None:
        """Starts one more worker on the segment, in place of one that died, and lets it pull.

        Raises:
            GsliceError: it could not be started; nothing of it is left.
        """
        worker = await self.prepare()
        if self._pulling < self.spec.instances:
            self._flip(None, worker)
        else:  # a shadow that was prepared at the time took the dead one's place
            await self.instances.discard(worker)

    async def prepare(
        self, stage: Callable[[str, str], None] = unheard, *, gently: bool = False
    ) -> Worker:
        """Starts, loads and warms one more worker on the segment; it may not pull yet.

        Args:
            stage: Told of each stage.
            gently: What serves meanwhile computes first.

        Raises:
            GsliceError: it could not be started; nothing of it is left.
        """
        stage("start", "")
        worker = await self.instances.start(self._instance_share)
        try:
            stage("load", self.spec.model or self.spec.python or self.spec.engine)
            signature = await self.instances.load(worker, self.signature, gently=gently)
            if signature != self.signature:
                raise LoadFailed(
                    f"function {self.spec.name}: the model changed its inputs or outputs",
                    hint=f"load it anew: gslice load {self.spec.name}",
                )
            stage("warm", "")
            await self._attach(worker)
        except BaseException:
            await self.instances.discard(worker)
            raise
        return worker

    def serve(self) -> None:
        """Lets all instances pull that are not about to end."""
        for worker in self.instances:
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
        if not lives and self._pulling >= self.spec.instances:
            await self.instances.discard(shadow)
            return None
        stage("swap", f"worker {shadow.pid} for {old.pid}")
        try:
            flip_ns = self._flip(old if lives else None, shadow)
        except GsliceError:
            await self.instances.discard(shadow)
            raise
        if lives:
            await self.let_go(old, stage)
        wait_ns = self.segment.instance_stamps(shadow.instance)["first_wait_ns"]
        return Swap(flip_ns / 1000, wait_ns / 1000 if wait_ns >= 0 else -1.0)

    # ---- shares, front-ends, health -----------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many instances are warm, and serve or are about to."""
        return sum(worker.ready for worker in self.instances)

    @property
    def share_effective_percent(self) -> float:
        """What the limiters of all instances read back, together."""
        return sum(w.share_effective_percent for w in self.instances if self.instances.pulls(w))

    @property
    def limiter(self) -> str:
        """What enforces the share; empty while nothing runs."""
        return next((w.limiter for w in self.instances if w.ready), "")

    async def set_share(self, share_percent: float) -> None:
        """Changes the share where that can be done in place; those that still load follow."""
        self.share_percent = share_percent
        await run_all(self._correct_share(worker) for worker in self.instances if worker.ready)

    def stale(self) -> list[Worker]:
        """Workers that must be replaced for the share to be what it should."""
        share = self._instance_share
        return [w for w in self.instances if w.ready and self.path(w, share) == "shadow"]

    def path_to(self, share_percent: float) -> str:
        """How it gets to another share: `none`, `in place` or `shadow`."""
        share = share_percent / self.spec.instances
        paths = {self.path(worker, share) for worker in self.instances if worker.ready}
        return next((path for path in ("shadow", "in place") if path in paths), "none")

    def path(self, worker: Worker, instance_share_percent: float) -> str:
        """How one of its workers gets to another share; see `Instances.path`."""
        return self.instances.path(worker, instance_share_percent)

    def add_frontend(self, index: int, eventfd: int) -> None:
        """Lets a front-end in; workers that are not attached yet are told when they are."""
        if self.segment is not None:
            self.segment.activate_frontend(index)
        for worker in self.instances:
            if worker.instance >= 0:
                worker.add_frontend(index, eventfd)

    def remove_frontend(self, index: int) -> None:
        """Takes the leases of a dead front-end back."""
        if self.segment is not None:
            self.segment.reap_frontend(index)
        for worker in self.instances:
            if worker.instance >= 0:
                worker.remove_frontend(index)

    # ---- end -------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Has all accepted requests answered; the front-ends must accept no new ones by now.

        If its last worker died, another one is started for what still waits.

        Returns:
            False: some were not answered in time. They are answered with an error.
        """
        if self.segment is None:
            return True
        deadline_s = time.monotonic() + timeout_s
        idle = await self.settle(deadline_s)
        left_s = max(0.1, deadline_s - time.monotonic())
        drained = await run_all(worker.drain(left_s) for worker in self.instances)
        return idle and all(drained)

    async def settle(self, deadline_s: float) -> bool:
        """The first half of `drain`: its workers could go on.

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
        await self.instances.settle()
        await run_all(self.instances.stop(worker) for worker in self.instances)
        self._close()

    async def kill(self) -> None:
        """Ends all workers at once; what is still queued is answered with an error."""
        await self.instances.settle()
        await run_all(self.instances.kill(worker) for worker in self.instances)
        self._close()

    def detach(self) -> None:
        """Lets the workers run on without us."""
        for worker in self.instances:
            worker.detach()

    def forget_weights(self) -> None:
        """Nobody takes a dead worker's place: what its weights took is free, too."""
        if not self.instances:
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
        plan = slot_classes(self.signature, self.spec, budget_bytes)
        segment = Segment.create(
            self.spec.name,
            [(c.payload_bytes, c.count) for c in plan.classes],
            plan.block_bytes,
            plan.block_count,
        )
        # Without a delay a batch is whatever queued while the lanes were busy.
        segment.set_limits(self.signature.rows_max, max(0, self.spec.delay_us) * 1000)
        for index in self._frontends.eventfds():
            segment.activate_frontend(index)
        self.instances.segment = segment

    @property
    def _pulling(self) -> int:
        return sum(self.instances.pulls(worker) for worker in self.instances)

    def _flip(self, old: Worker | None, new: Worker) -> int:
        """Returns how long it took, in ns."""
        assert self.segment is not None
        took_ns = self.segment.flip(None if old is None else old.instance, new.instance)
        if old is not None:
            old.ready, old.draining = False, True
        return took_ns

    async def let_go(self, old: Worker, stage: Callable[[str, str], None] = unheard) -> None:
        """Ends a worker that may not pull any more, when it has finished what it claimed."""
        stage("drain", "")
        drained = await old.drain(self.node.config.drain_timeout_us / 1e6)
        stage("exit", "" if drained else "it did not finish in time; others run what it had")
        await self.instances.stop(old)

    async def _attach_all(self, signature: Signature) -> None:
        """Where times of its batches are wanted, one takes them when the others are warm."""
        one = 1 if self.node.times_wanted(self.spec) else 0
        await run_all(self._attach(worker) for worker in self.workers[one:])
        await run_all(self._attach(worker, signature.sizes) for worker in self.workers[:one])

    async def _attach(self, worker: Worker, timed: Sequence[int] = ()) -> None:
        await self.instances.attach(worker, timed)
        await self._correct_share(worker)

    async def _correct_share(self, worker: Worker) -> None:
        """In place, and again if it changed meanwhile."""
        while self.path(worker, self._instance_share) == "in place":
            await self.instances.set_share(worker, self._instance_share)

    @property
    def _instance_share(self) -> float:
        return self.share_percent / self.spec.instances

    async def _replaced(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.replace()
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
