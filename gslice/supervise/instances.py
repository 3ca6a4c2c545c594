"""The workers of one deployment, each of them from its start to its end.

What a death means for requests is settled here: what the dead instance had claimed is queued again,
and what its device could still write to is kept out of use until it cannot.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING

from gslice.control.hang import HangWatch, Stamps
from gslice.core.events import EventKind
from gslice.device.cpu import CpuDevice
from gslice.device.sm_groups import BESIDE
from gslice.supervise.clients import Burial
from gslice.supervise.news import tell_requeued
from gslice.supervise.process import Lodger
from gslice.supervise.reclaim import reclaim
from gslice.supervise.tasks import Tasks
from gslice.supervise.weights import model_key
from gslice.supervise.worker import LOAD_TIMEOUT_S, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from gslice._native import Segment
    from gslice.core.types import FunctionSpec, Signature
    from gslice.ipc.messages import Measure, Measured
    from gslice.supervise.clients import Clients
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.node import Node


class Instances:
    """See the module.

    Args:
        node: The node.
        spec: What they serve.
        frontends: Who leases slots and takes answers.
        on_lost: Called after a death that nobody ordered, when its requests are queued again: how
            the worker died, whether it may be to blame itself, and when.
        beside: They are measured beside what serves, and never attached.

    Attributes:
        segment: What they are attached to; None until their signature is known.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        frontends: Frontends,
        on_lost: Callable[[str, bool, float], None],
        *,
        beside: bool = False,
    ) -> None:
        self.segment: Segment | None = None
        self._node = node
        self._spec = spec
        self._frontends = frontends
        self._on_lost = on_lost
        self._is_stand = beside
        self._workers: list[Worker] = []
        self._watches: dict[Worker, HangWatch] = {}
        self._device = node.device(spec.device)
        self._gpu = node.gpus.get(spec.device)
        self._board = node.turn_boards.of(spec.device)
        self._burying = Tasks(spec.name, node.event)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers))

    def __len__(self) -> int:
        return len(self._workers)

    # ---- beginnings ------------------------------------------------------------------------

    async def start(self, share_percent: float) -> Worker:
        """Starts an empty worker that will have a share; on a GPU it has it from now on.

        Raises:
            GsliceError: it did not come up, or its device cannot be used.
        """
        environment: dict[str, str] = {}
        if self._gpu is not None:
            await self._gpu.ready()
            environment = self._gpu.environment(self._spec, share_percent)
        hosted = self._gpu is not None and self._gpu.limiter_of(self._spec) == "green"
        start = Worker.start_in_host if hosted else Worker.start
        worker = await start(self._node, self._spec, environment)
        worker.share_percent = share_percent
        worker.seat = self._seat(worker)
        self._add(worker)
        return worker

    async def load(
        self, worker: Worker, known: Signature | None = None, *, gently: bool = False
    ) -> Signature:
        """Has it load the model.

        Args:
            worker: An empty one.
            known: What it will be, so far as another one told.
            gently: What serves meanwhile computes first.

        Raises:
            LoadFailed: the reason.
        """
        self._node.let_read(self._spec)
        device, gpu = self._device, self._gpu
        if gpu is None:
            limiter, cpus, brokered = device.limiter, list(device.cpus), self._brokers(worker)
            return await worker.load(
                self._spec, limiter, cpus, None, known, gently=gently, brokered=brokered
            )
        async with gpu.measured_load(worker):
            signature = await self._load_sharing(gpu, worker, known, gently)
        await gpu.check_client(worker, self._spec.name)
        return signature

    async def attach(self, worker: Worker, timed: Sequence[int] = ()) -> None:
        """Has it warm up on the segment; it may not pull yet.

        Args:
            worker: A loaded one.
            timed: Batch sizes to time on the way.

        Raises:
            GsliceError: the reason.
        """
        assert self.segment is not None
        async with self._alone_on_gpu():
            eventfds = self._frontends.eventfds()  # of now: they come and go while others measure
            instance = self.segment.add_instance()
            await worker.attach(self._spec, self.segment, instance, self._board, eventfds, timed)
        if self._gpu is not None:
            self._gpu.check_share(worker, self._spec.name)
        self._watch(worker)

    async def measure(self, worker: Worker, order: Measure) -> Measured:
        """Has one time batches that is loaded and will not be attached.

        Raises:
            GsliceError: the reason.
        """
        async with self._alone_on_gpu():  # its first batch of a size takes memory
            measured = await worker.measure(self._spec, order)
        if self._gpu is not None:
            self._gpu.check_share(worker, self._spec.name)
        return measured

    def adopt(self, worker: Worker) -> None:
        """Takes over one that was serving before this daemon started."""
        self._add(worker)
        self._brokers(worker)
        if self._gpu is not None:
            self._keep_weights(self._gpu, worker, self._gpu.weights.epoch)
        self._watch(worker)

    # ---- shares ----------------------------------------------------------------------------

    def path(self, worker: Worker, share_percent: float) -> str:
        """How a worker gets another share: `none`, `in place`, or by a `shadow` that replaces it.

        Where neither a GPU nor its pool of threads has fixed it, a share changes in place.
        """
        if worker.share_percent == share_percent:
            return "none"
        if worker.hosted:  # what is measured is never attached, and there is nothing to move
            return "in place" if worker.instance >= 0 else "shadow"
        if self._gpu is not None:
            if self._gpu.limiter_of(self._spec) == "none":
                return "in place"
            same = self._gpu.same_share(worker.share_percent, share_percent)
            return "none" if same else "shadow"
        if worker.threads == 0 or self._spec.threads or worker.limiter == "none":
            return "in place"
        threads = CpuDevice(tuple(self._device.cpus), share_percent).threads
        fits = (
            threads <= worker.threads if worker.limiter == "cgroup" else threads == worker.threads
        )
        return "in place" if fits else "shadow"

    async def set_share(self, worker: Worker, share_percent: float) -> None:
        """Changes its share where that can be done in place."""
        if self.path(worker, share_percent) != "in place":
            return
        self._count_turn(worker, max(worker.share_percent, share_percent))
        if self._gpu is not None and not worker.hosted:  # nothing limits it: only the books change
            worker.share_percent = share_percent
        else:
            await worker.set_share(share_percent)
        self._count_turn(worker, share_percent)

    def pulls(self, worker: Worker) -> bool:
        """Whether it may claim requests."""
        segment = self.segment
        return segment is not None and worker.instance >= 0 and segment.may_pull(worker.instance)

    # ---- ends ------------------------------------------------------------------------------

    async def stop(self, worker: Worker) -> None:
        """Ends it in order; what it had claimed is queued again if it could not be finished."""
        await self._end(worker, worker.stop())

    async def kill(self, worker: Worker) -> None:
        """Ends it at once."""
        await self._end(worker, worker.kill())

    async def discard(self, worker: Worker) -> None:
        """Ends one that never served; on a GPU in order if it listens: neighbours feel a kill.

        In a host that is as soon as it has loaded: nothing ends it sooner but the end of them all.
        """
        if worker.hosted and worker.preparing:
            worker.exit_timeout_s = LOAD_TIMEOUT_S
        at_once = not worker.hosted and (self._gpu is None or worker.preparing)
        await (self.kill(worker) if at_once else self.stop(worker))

    async def settle(self) -> None:
        """Lets go of deaths that are being looked into, before all are ended."""
        await self._burying.cancel()
        if not self._workers:
            self.forget_weights()

    def forget_weights(self) -> None:
        """Whoever is started from now on loads them anew, unless another function has them."""
        if self._gpu is not None:
            self._gpu.weights.release(self)

    def kill_hung(self, now_ns: int) -> None:
        """Kills those that make no progress; their death then takes the usual course."""
        if self.segment is None:
            return
        queued = self.segment.counts()["queued"]
        hung = [
            worker
            for worker, watch in self._watches.items()
            if watch.hangs(now_ns, queued * self._may_claim(worker), self._stamps(worker))
        ]
        for worker in hung:
            del self._watches[worker]
            limit_s = self._node.config.hang_timeout_us / 1e6
            text = f"worker {worker.pid} made no progress for {limit_s:g} s; killed"
            self._node.event(self._spec.name, EventKind.KILL, text)
            self._burying.start(worker.abort())

    # ---- parts -----------------------------------------------------------------------------

    def _brokers(self, worker: Worker) -> bool:
        """Whether its threads are held to its share by us: its user may not touch the groups."""
        limiter = self._node.limiter(self._spec.device, self._spec)
        if limiter != "cgroup" or self._spec.device not in self._node.users:
            return False
        return self._node.broker.add(worker, self._spec, self._device.cpus)

    def _may_claim(self, worker: Worker) -> bool:
        """Whether it ignores requests that wait: others have the turn that it waits for."""
        return self.pulls(worker) and not (worker.turn >= 0 and self._board.waits(worker.turn))

    def _count_turn(self, worker: Worker, share_percent: float) -> None:
        """What its batches count for on the turn board, if it is there."""
        if worker.turn >= 0:
            self._board.set_share(worker.turn, share_percent)

    def _alone_on_gpu(self) -> AbstractAsyncContextManager[object]:
        return contextlib.nullcontext() if self._gpu is None else self._gpu.measuring

    async def _load_sharing(
        self, gpu: Gpu, worker: Worker, known: Signature | None, gently: bool
    ) -> Signature:
        """Has it load, with the weights that are there; those that it makes are kept for others."""
        epoch = gpu.weights.epoch
        model = model_key(self._spec) if gpu.config.share_weights else ""
        signature = await worker.load(
            self._spec,
            gpu.limiter_of(self._spec),
            gpu.cpus(),
            gpu.grant(),
            known,
            gently=gently,
            model=model,
            block=gpu.weights.hold(self, model) if model else None,
        )
        self._keep_weights(gpu, worker, epoch)
        if worker.own_weights:
            text = f"worker {worker.pid} has its own copy of the weights: {worker.own_weights}"
            self._node.event(self._spec.name, EventKind.DEVICE, text)
        return signature

    def _keep_weights(self, gpu: Gpu, worker: Worker, epoch: int) -> None:
        for fd in worker.child.take_fds():
            # Nobody would map what an adopted one brings where nothing is shared any more.
            if worker.weights is not None and gpu.config.share_weights:
                gpu.weights.keep(self, worker.weights, fd, epoch)
            else:
                os.close(fd)

    def _seat(self, worker: Worker) -> int:
        """The first that nobody of this deployment has in its host."""
        if self._is_stand:
            return BESIDE
        there = (w for w in self._workers if w.hosted and w.pid == worker.pid)
        taken = {other.seat for other in there}
        return next(seat for seat in range(len(taken) + 1) if seat not in taken)

    def _stamps(self, worker: Worker) -> Stamps:
        assert self.segment is not None
        return Stamps(**self.segment.instance_stamps(worker.instance))

    def _add(self, worker: Worker) -> None:
        self._workers.append(worker)
        self._node.oom.watch(worker.pid, time.monotonic())
        worker.explain_death = lambda how: self._node.oom.explain(worker.pid, how, time.monotonic())
        if self._gpu is not None:
            alone = self._spec.exclusive or worker.hosted
            self._gpu.clients.add(worker, self._spec.name, alone=alone)
            worker.use_gpu(functools.partial(self._gpu.clients.end, worker))
        if isinstance(lodger := worker.child.process, Lodger):
            lodger.works = functools.partial(self._works, worker)

    def _works(self, worker: Worker) -> bool:
        """Whether it loads, warms up or moves, or a batch is under way."""
        attached = self.segment is not None and worker.instance >= 0
        return worker.preparing or (attached and any(self._stamps(worker).lane_started_ns))

    def _watch(self, worker: Worker) -> None:
        self._watches[worker] = HangWatch(self._node.config.hang_timeout_us * 1000)
        self._node.oom.watch(worker.pid, time.monotonic())  # its code may have moved it meanwhile
        worker.death.add_done_callback(lambda death: self._lost(worker, death.result()))

    def _lost(self, worker: Worker, how: str) -> None:
        if worker.expected_to_end:
            return
        died_s, how = time.monotonic(), worker.explain_death(how)
        self._node.event(self._spec.name, EventKind.CRASH, f"worker {worker.pid} {how}")
        if self._gpu is None:
            self._accept_death(worker, how, died_s, Burial())
        else:
            worker.ready = False
            self._watches.pop(worker, None)
            self._burying.start(self._bury(self._gpu, worker, how, died_s))

    async def _bury(self, gpu: Gpu, worker: Worker, how: str, died_s: float) -> None:
        self._accept_death(worker, how, died_s, await gpu.bury(worker, how))

    def _accept_death(self, worker: Worker, how: str, died_s: float, burial: Burial) -> None:
        self._remove(worker, burial)
        self._on_lost(how, burial.blamed, died_s)
        reclaim(self._node)

    async def _end(self, worker: Worker, end: Coroutine[None, None, None]) -> None:
        worker.expected_to_end = True
        await end
        burial = Burial()
        if self._gpu is not None:
            burial = await self._gpu.bury(worker, worker.death.result())
        self._remove(worker, burial)
        if not self._workers:
            self.forget_weights()

    def _remove(self, worker: Worker, burial: Burial) -> None:
        """Takes a dead worker's instance out of the segment; its requests are queued again."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        self._node.broker.forget(worker)
        if not worker.hosted:  # others may be in its process
            self._node.oom.forget(worker.pid)
        self._watches.pop(worker, None)
        if worker.turn >= 0:
            self._board.remove(worker.turn)
            worker.turn = -1
        if self.segment is None or worker.instance < 0:
            return
        gone = burial.device_gone
        result = self.segment.requeue(
            worker.instance, not self._spec.side_effects, device_gone=gone, blamed=burial.blamed
        )
        self._frontends.wake(result["wake"])
        tell_requeued(self._node.event, self._spec.name, result)
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
