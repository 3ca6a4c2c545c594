"""One edition of a function as it runs: its segment, and the workers that serve it.

A function that is loaded anew gets a second deployment beside the first; the swap lies between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING

from gslice._native import Segment
from gslice.control.hang import HangWatch, Stamps
from gslice.control.slots import slot_classes
from gslice.core.errors import GsliceError, LoadFailed, Unavailable
from gslice.supervise.clients import Burial
from gslice.supervise.reclaim import reclaim
from gslice.supervise.tasks import Tasks, run_all
from gslice.supervise.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gslice.core.types import FunctionSpec, Signature
    from gslice.supervise.budget import Budget
    from gslice.supervise.clients import Clients
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.node import Node

_IDLE_POLL_S = 0.005


class Deployment:
    """A function's segment and workers.

    Args:
        node: The node.
        spec: What is deployed.
        share_percent: The function's share of its device.
        frontends: Who leases slots and takes answers.
        on_lost: Called after a worker's death that nobody ordered, when its requests are queued
            again: the deployment, how the worker died, and whether it may be to blame itself.

    Attributes:
        segment: None until the model is loaded and its signature known.
        signature: Likewise.
        workers: Those that run, ready or not.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        share_percent: float,
        frontends: Frontends,
        on_lost: Callable[[Deployment, str, bool], None],
    ) -> None:
        self.node = node
        self.spec = spec
        self.share_percent = share_percent
        self.segment: Segment | None = None
        self.signature: Signature | None = None
        self.workers: list[Worker] = []
        self._watches: dict[Worker, HangWatch] = {}
        self._device = node.device(spec.device)
        self._gpu = node.gpus.get(spec.device)
        self._bound = False  # a share that is fixed at a process's start has been used
        self._burying = Tasks(spec.name, node.event)
        self._frontends = frontends
        self._on_lost = on_lost

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
            await run_all(self._start_worker() for _ in range(self.spec.instances))
            stage("load", self.spec.model or self.spec.python or self.spec.engine)
            signatures = await run_all(self._load(worker) for worker in self.workers)
            budget.check_memory(self.spec.device)
            self._open_segment(signatures, budget.segment_bytes())
            stage("warm", "")
            await run_all(self._attach(worker) for worker in self.workers)
        except BaseException:
            await (self.kill() if self._gpu is None else self.stop())
            raise

    def adopt(self, segment: Segment, signature: Signature, workers: Sequence[Worker]) -> None:
        """Takes over what served before this daemon started."""
        self.segment = segment
        self.signature = signature
        for worker in workers:
            self.workers.append(worker)
            self._bind(worker)
            self._watch(worker)

    async def replace(self) -> None:
        """Starts one more worker on the segment, in place of one that died, and lets it pull.

        Raises:
            GsliceError: it could not be started; nothing of it is left.
        """
        assert self.segment is not None
        worker = await self._start_worker()
        try:
            if await self._load(worker) != self.signature:
                raise LoadFailed(
                    f"function {self.spec.name}: the model changed its inputs or outputs",
                    hint=f"load it anew: gslice load {self.spec.name}",
                )
            await self._attach(worker)
        except BaseException:
            await self._discard(worker)
            raise
        self.segment.flip(None, worker.instance)

    def serve(self) -> None:
        """Lets all instances pull."""
        assert self.segment is not None
        for worker in self.workers:
            self.segment.flip(None, worker.instance)

    # ---- shares, front-ends, health -----------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many instances are warm."""
        return sum(worker.ready for worker in self.workers)

    @property
    def share_effective_percent(self) -> float:
        """What the limiters of all instances read back, together."""
        return sum(w.share_effective_percent for w in self.workers if w.ready)

    @property
    def limiter(self) -> str:
        """What enforces the share; empty while nothing runs."""
        return next((w.limiter for w in self.workers if w.ready), "")

    @property
    def live_resize(self) -> bool:
        """Whether a share can change in place; else it is that of the processes' start."""
        return self._gpu is None or self._gpu.live_resize

    def has_share(self, share_percent: float) -> bool:
        """Whether it has what such a share is worth; where it can be set in place, it has."""
        return (
            self._gpu is None
            or self._gpu.live_resize
            or self._gpu.same_share(self.share_percent, share_percent)
        )

    async def set_share(self, share_percent: float) -> None:
        """Changes the share of all instances in place; those still loading follow when ready."""
        if self._bound and not self.live_resize:
            return
        self.share_percent = share_percent
        await run_all(self._correct_share(worker) for worker in self.workers if worker.ready)

    def add_frontend(self, index: int, eventfd: int) -> None:
        """Lets a front-end in; workers that are not attached yet are told when they are."""
        if self.segment is not None:
            self.segment.activate_frontend(index)
        for worker in self.workers:
            if worker.instance >= 0:
                worker.add_frontend(index, eventfd)

    def remove_frontend(self, index: int) -> None:
        """Takes the leases of a dead front-end back."""
        if self.segment is not None:
            self.segment.reap_frontend(index)
        for worker in self.workers:
            if worker.instance >= 0:
                worker.remove_frontend(index)

    def kill_hung(self, now_ns: int) -> list[Worker]:
        """Kills workers that make no progress; their death then takes the usual course.

        Returns:
            Those that were killed.
        """
        if self.segment is None:
            return []
        queued = self.segment.counts()["queued"]
        hung = [
            worker
            for worker in self.workers
            if worker in self._watches
            and self._watches[worker].hangs(
                now_ns, queued, Stamps(**self.segment.instance_stamps(worker.instance))
            )
        ]
        for worker in hung:
            del self._watches[worker]
            self._burying.start(worker.abort())
        return hung

    # ---- end -------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Has all accepted requests answered; the front-ends must accept no new ones by now.

        If its last worker died, another one is started for what still waits.

        Returns:
            False: some were not answered in time. They are answered with an error.
        """
        if self.segment is None:
            return True
        deadline = time.monotonic() + timeout_s
        # Shared memory has no event for "idle" that the daemon could wait for.
        while not (idle := self._idle()) and time.monotonic() < deadline:
            if not self.workers and not await self._replaced(deadline - time.monotonic()):
                break
            await asyncio.sleep(_IDLE_POLL_S)
        left_s = max(0.1, deadline - time.monotonic())
        drained = await run_all(worker.drain(left_s) for worker in self.workers)
        return idle and all(drained)

    async def stop(self) -> None:
        """Ends all workers in order; what is still queued is answered with an error."""
        await self._burying.cancel()
        await run_all(self._retire(worker, worker.stop()) for worker in list(self.workers))
        self.fail_queued("the function was stopped")

    async def kill(self) -> None:
        """Ends all workers at once; what is still queued is answered with an error."""
        await self._burying.cancel()
        await run_all(self._retire(worker, worker.kill()) for worker in list(self.workers))
        self.fail_queued("the function was stopped")

    def detach(self) -> None:
        """Lets the workers run on without us."""
        for worker in self.workers:
            worker.detach()

    def fail_queued(self, reason: str) -> None:
        """Answers everything that is queued with UNAVAILABLE."""
        if self.segment is not None:
            message = f"function {self.spec.name}: {reason}"
            self._frontends.wake(self.segment.fail_queued(Unavailable.code, message))

    # ---- parts -----------------------------------------------------------------------------

    async def _start_worker(self) -> Worker:
        environment: dict[str, str] = {}
        if self._gpu is not None:
            await self._gpu.ready()
            environment = self._gpu.environment(self.spec, self._instance_share)
            self._bound = True
        worker = await Worker.start(self.node, self.spec, environment)
        self.workers.append(worker)
        self._bind(worker)
        return worker

    def _bind(self, worker: Worker) -> None:
        if self._gpu is not None:
            self._bound = True
            self._gpu.clients.add(worker, self.spec.name)
            worker.use_gpu(functools.partial(self._gpu.clients.end, worker))

    async def _load(self, worker: Worker) -> Signature:
        device, gpu, share = self._device, self._gpu, self._instance_share
        if gpu is None:
            cpus = list(device.cpus)
            return await worker.load(self.spec, share, device.limiter, cpus, known=self.signature)
        async with gpu.measuring:
            signature = await worker.load(
                self.spec, share, gpu.limiter, gpu.cpus(), gpu.grant(), self.signature
            )
        await gpu.check_client(worker, self.spec.name)
        return signature

    def _open_segment(self, signatures: Sequence[Signature], budget_bytes: int) -> None:
        self.signature = signatures[0]
        plan = slot_classes(self.signature, self.spec, budget_bytes)
        self.segment = Segment.create(
            self.spec.name,
            [(c.payload_bytes, c.count) for c in plan.classes],
            plan.block_bytes,
            plan.block_count,
        )
        # Without a delay a batch is whatever queued while the lanes were busy.
        self.segment.set_limits(self.signature.rows_max, max(0, self.spec.delay_us) * 1000)
        for index in self._frontends.eventfds():
            self.segment.activate_frontend(index)

    async def _attach(self, worker: Worker) -> None:
        assert self.segment is not None
        async with self._gpu.measuring if self._gpu is not None else contextlib.nullcontext():
            instance = self.segment.add_instance()
            await worker.attach(self.spec, self.segment, instance, self._frontends.eventfds())
        if self._gpu is not None:
            self._gpu.check_share(worker, self.spec.name)
        await self._correct_share(worker)
        self._watch(worker)

    async def _correct_share(self, worker: Worker) -> None:
        if self._gpu is not None:  # what limits it there was fixed at its start, or there is none
            worker.share_percent = self._instance_share
            return
        while worker.share_percent != self._instance_share:
            await worker.set_share(self._instance_share)

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
        self.node.event(self.spec.name, f"nobody can answer what still waits: {reason}")
        return False

    def _watch(self, worker: Worker) -> None:
        self._watches[worker] = HangWatch(self.node.config.hang_timeout_us * 1000)
        worker.death.add_done_callback(lambda death: self._lost(worker, death.result()))

    def _lost(self, worker: Worker, how: str) -> None:
        if worker.expected_to_end:
            return
        if self._gpu is None:
            self._accept_death(worker, how, Burial())
        else:
            worker.ready = False
            self._watches.pop(worker, None)
            self._burying.start(self._bury(self._gpu, worker, how))

    async def _bury(self, gpu: Gpu, worker: Worker, how: str) -> None:
        self._accept_death(worker, how, await gpu.bury(worker, how))

    def _accept_death(self, worker: Worker, how: str, burial: Burial) -> None:
        self._remove(worker, burial)
        self._on_lost(self, how, burial.blamed)
        reclaim(self.node)

    async def _retire(self, worker: Worker, end: Coroutine[None, None, None]) -> None:
        worker.expected_to_end = True
        await end
        burial = Burial()
        if self._gpu is not None:
            burial = await self._gpu.bury(worker, worker.death.result())
        self._remove(worker, burial)

    async def _discard(self, worker: Worker) -> None:
        """Ends one that never served; on a GPU in order, for its neighbours feel a kill."""
        await self._retire(worker, worker.kill() if self._gpu is None else worker.stop())

    def _remove(self, worker: Worker, burial: Burial) -> None:
        """Takes a dead worker's instance out of the segment; its requests are queued again."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        self._watches.pop(worker, None)
        if self.segment is None or worker.instance < 0:
            return
        gone = burial.device_gone
        result = self.segment.requeue(
            worker.instance, not self.spec.side_effects, device_gone=gone, blamed=burial.blamed
        )
        self._frontends.wake(result["wake"])
        if gone:
            self.segment.remove_instance(worker.instance)
        elif self._gpu is not None:
            self._burying.start(self._release(self._gpu.clients, self.segment, worker))

    async def _release(self, clients: Clients, segment: Segment, worker: Worker) -> None:
        """Gives back what a dead worker's device could still write to, once it cannot."""
        if not await clients.gone(worker):
            return
        segment.release_quarantine(worker.instance)
        segment.remove_instance(worker.instance)

    def _idle(self) -> bool:
        assert self.segment is not None
        counts = self.segment.counts()
        return counts["leased"] == counts["queued"] == counts["claimed"] == 0
