"""The one function of a worker: load, attach, serve, drain, close."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from gslice import _native
from gslice.core.errors import FailedPrecondition
from gslice.core.types import MemoryTaken
from gslice.device.cpu import CpuDevice
from gslice.device.limiter import Limiter, NoLimiter, make_limiter, prioritise
from gslice.device.niceness import lower, restore
from gslice.device.tasks import pin, thread_ids
from gslice.ipc.messages import Measured, Recorded, ShareSet
from gslice.ipc.native import native_signature
from gslice.ipc.process import own_bytes
from gslice.worker.engines import make_engine
from gslice.worker.engines.base import KeepsLanes
from gslice.worker.gpu import GpuDevice, WorkerGpu
from gslice.worker.timing import Timing
from gslice.worker.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from gslice.core.types import Signature
    from gslice.ipc.messages import Attach, Load, Measure, Record
    from gslice.worker.engines.base import Device
    from gslice.worker.green import GreenShare
    from gslice.worker.household import Household
    from gslice.worker.timing import Times
    from gslice.worker.weights import WeightStore

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ServedFunction:
    """A loaded function: its engine, its share and, once attached, its pump.

    Args:
        order: What to load, and the share to hold it to once it is attached. Until then nothing is
            limited: threads that a library starts inherit the limits of the thread that loads, and
            the pump and the control loop must have none.
        control_tids: Threads that were there before any engine: they compute nothing.
        weights_fd: Of the weights that the order tells of; stays the caller's.
        household: What it shares with others of its process; None: it has the process alone.
        held: Limits it, where this process may not do so itself.

    Attributes:
        memory: What it takes, by the steps that it has taken.
        lane_tids: Of the threads that run its batches, once it is attached.
        timed: What was timed on the way to serving.

    Raises:
        LoadFailed: The engine's reason.
    """

    def __init__(
        self,
        order: Load,
        control_tids: Collection[int],
        weights_fd: int = -1,
        household: Household | None = None,
        held: Limiter | None = None,
    ) -> None:
        self.order = order
        self.spec = order.spec
        self.index = -1
        self.turn = -1
        self.segment: _native.Segment | None = None
        self.board: _native.TurnBoard | None = None
        self._cpus = tuple(order.cpus) or tuple(sorted(os.sched_getaffinity(0)))
        self.share_percent = order.share_percent
        self._limiter: Limiter = NoLimiter(self._cpus)
        self._held = held
        self._limited = False
        self._instance: _native.Instance | None = None
        self._recorded_until_s = 0.0
        self._timing: Timing | None = None
        self.timed: list[Measured] = []
        self.lane_tids: frozenset[int] = frozenset()
        self._niceness = lower() if order.gently else None
        # Before the engine makes more threads, which inherit it.
        pin(thread_ids() if household is None else {threading.get_native_id()}, self._cpus)
        # What the process is of itself goes to its first function.
        shared = household.gpu if household is not None else None
        others_bytes = own_bytes() if shared is not None and shared.in_use else 0
        self._control_tids = frozenset(control_tids)
        self._engine = make_engine(self.spec.engine)
        self._gpu = WorkerGpu(order, order.gpu, weights_fd, shared) if order.gpu else None
        try:
            self.memory = MemoryTaken(process_bytes=max(0, own_bytes() - others_bytes))
            fresh = household.modules.fresh if household is not None else contextlib.nullcontext
            with fresh(self.spec.python_path), self._taking("model_bytes", "weights_bytes"):
                self.signature: Signature = self._engine.load(
                    self.spec, self._device(), order.known
                )
        except BaseException:  # nobody else has it, to close it
            self._engine.close()  # what it has on the GPU's streams goes before these
            if self._gpu is not None:
                self._gpu.close()
            raise
        if self.weights is not None and self.weights.shared is not None:
            own = self.memory.weights_bytes - self.weights.made_bytes
            shared_bytes = self.weights.shared.size_bytes
            self.memory = dataclasses.replace(
                self.memory, weights_bytes=max(0, own), shared_bytes=shared_bytes
            )

    @property
    def limiter(self) -> str:
        """What enforces the share."""
        return self._gpu.limiter if self._gpu else self._limiter.name

    @property
    def weights(self) -> WeightStore | None:
        """Where its weights lie on the GPU; None on a CPU device."""
        return self._gpu.weights if self._gpu else None

    @property
    def threads(self) -> int:
        """Most that the engine computes with at once; 0: as many as the user's code makes."""
        return self._engine.threads

    @property
    def share_effective_percent(self) -> float:
        """The share as it is read back, or what the engine's threads can use of it."""
        if self._gpu is not None:
            return self._gpu.share_effective_percent
        reach = self._engine.threads or len(self._cpus)
        return min(self._limiter.read_effective(), 100.0 * reach / len(self._cpus))

    def attach(self, order: Attach, fds: Sequence[int], eventfds: Mapping[int, int]) -> None:
        """Warms up, starts the pump (which may not pull yet) and enforces the share.

        Args:
            order: What to attach to.
            fds: Of the function's segment, and of the turn board if there is one; stay the
                caller's.
            eventfds: Of the front-ends known by now; stay the caller's.

        Raises:
            LoadFailed: Warming up failed.
            GsliceError: The segment, the board or the limiter refused.
        """
        if self._instance is not None or self._timing is not None:
            raise FailedPrecondition(f"function {self.spec.name} is attached already, or measured")
        segment = _native.Segment.open(fds[0])
        self.board = _native.TurnBoard.open(fds[1]) if order.turn >= 0 else None
        self.memory = dataclasses.replace(self.memory, context_bytes=order.context_bytes)
        with self._taking("warm_bytes", "workspace_bytes"):
            self._instance = self._started(segment, order, eventfds)
        restore(self._niceness)
        self.segment, self.index, self.turn = segment, order.instance, order.turn
        # A share of a GPU is enforced there, and the identity engine has no compute thread.
        if self._gpu is None and not self._engine.native:
            self._limit()

    def measure(self, order: Measure) -> Measured:
        """Times batches at the share that was ordered last.

        Raises:
            FailedPrecondition: It is attached, or has nothing to time.
            GsliceError: The order does not fit it, it fails, or the limiter refuses.
        """
        if self._instance is not None:
            raise FailedPrecondition(f"function {self.spec.name} serves, so it is not measured")
        if self._engine.native:
            raise FailedPrecondition(
                f"function {self.spec.name}: {self.spec.engine} computes nothing to be measured"
            )
        restore(self._niceness)
        if self._timing is None:
            cuda = self._gpu.cuda if self._gpu else None
            self._timing = Timing(self._engine, self.spec, self.signature, cuda)
        timing = self._timing
        return self._under_limit(lambda: self._measured(timing.measure(order)))

    def set_share(self, share_percent: float) -> ShareSet:
        """Changes the share in place.

        Returns:
            The effective share, read back, and what it took.

        Raises:
            FailedPrecondition: Its limiter cannot do that while it serves.
        """
        if self._gpu is not None and self._gpu.green is not None:
            return self._move(self._gpu, self._gpu.green, share_percent)
        if self._gpu is not None or not self._limiter.live_resize:
            raise FailedPrecondition(f"limiter {self.limiter} cannot change a share in place")
        self.share_percent = share_percent
        if self._instance is not None:
            self._limiter.apply(share_percent, self._compute_tids())
        return ShareSet(self.share_effective_percent)

    def add_frontend(self, frontend: int, eventfd: int) -> None:
        """Lets a front-end be woken; the descriptor stays the caller's."""
        if self._instance is not None:
            self._instance.add_frontend(frontend, eventfd)

    def remove_frontend(self, frontend: int) -> None:
        """Forgets a front-end."""
        if self._instance is not None:
            self._instance.remove_frontend(frontend)

    def record(self, order: Record) -> None:
        """Has the inputs of the next requests copied.

        Raises:
            FailedPrecondition: nothing is served, or somebody records already.
            ResourceExhausted: there is no memory for it.
        """
        instance = self._serving()
        if time.monotonic() < self._recorded_until_s:
            raise FailedPrecondition("its requests are being recorded already")
        duration_s = order.duration_us / 1e6
        instance.record(order.requests, order.size_bytes, duration_s)
        self._recorded_until_s = time.monotonic() + duration_s

    def recorded(self) -> Recorded:
        """How far that is."""
        return Recorded(*self._serving().recorded())

    def take_recorded(self) -> tuple[Recorded, bytes]:
        """Ends it; see `Instance.take_recorded`."""
        requests, full, data = self._serving().take_recorded()
        self._recorded_until_s = 0.0
        return Recorded(requests, full=full), data

    def drain(self, timeout_s: float) -> bool:
        """Claims nothing new; True: nothing was in flight within the time-out."""
        return self._instance is None or self._instance.drain(timeout_s)

    def close(self) -> None:
        """Finishes what was claimed, ends the threads, gives everything back."""
        if self._instance is not None:
            self._instance.stop()
            self._instance = None
        self._engine.close()
        self._limiter.release()
        if self._gpu is not None:
            self._gpu.close()

    @property
    def fault_fd(self) -> int:
        """Becomes readable when the GPU is lost; -1: nothing here can be lost."""
        return self._instance.fault_fd if self._instance and self._gpu else -1

    def fault(self) -> str:
        """What the driver said when the GPU was lost."""
        return self._instance.fault() if self._instance else ""

    def _serving(self) -> _native.Instance:
        if self._instance is None:
            raise FailedPrecondition("it serves nothing yet")
        return self._instance

    def _move(self, gpu: WorkerGpu, green: GreenShare, share_percent: float) -> ShareSet:
        """Goes on, between batches, on as many SMs as another share is worth."""
        if self._instance is None:
            raise FailedPrecondition(
                f"limiter {self.limiter} changes the share only of a function that serves"
            )
        prepared_us = 0.0
        with green.moving(share_percent, gpu.cuda) as spare:
            if spare:
                prepared_us = self._move_to(spare, gpu.cuda, self._instance)
        self.share_percent = share_percent
        _log.info("%g %% by %s", gpu.share_effective_percent, self.limiter)
        return ShareSet(gpu.share_effective_percent, prepared_us)

    def _move_to(self, spare: range, cuda: _native.CudaDevice, instance: _native.Instance) -> float:
        """Returns how long the preparation took, in us."""
        left, gone = range(cuda.first_lane, cuda.first_lane + cuda.lanes), spare
        begun_s = time.monotonic()
        try:
            if not self._engine.native:
                warm_up(self._engine, self.spec, self.signature, cuda, spare)
            warm_s = time.monotonic()
            instance.move()
            self.lane_tids = frozenset(instance.lane_tids())
            gone = left
        finally:
            if isinstance(self._engine, KeepsLanes):
                self._engine.forget(gone)
        prepared_ms, moved_ms = (warm_s - begun_s) * 1e3, (time.monotonic() - warm_s) * 1e3
        _log.info("prepared other lanes in %.0f ms, moved in %.2f ms", prepared_ms, moved_ms)
        return prepared_ms * 1e3

    @contextlib.contextmanager
    def _taking(self, on_host: str, on_gpu: str) -> Iterator[None]:
        """Around what takes memory, which goes to these two parts.

        The driver tells what is free of the whole GPU, so the daemon has one worker of a GPU load
        or warm up at a time.
        """
        host_bytes, free_bytes = own_bytes(), self._gpu_free_bytes()
        yield
        taken = {
            on_host: max(0, own_bytes() - host_bytes),
            on_gpu: max(0, free_bytes - self._gpu_free_bytes()),
        }
        self.memory = dataclasses.replace(self.memory, **taken)

    def _gpu_free_bytes(self) -> int:
        return self._gpu.cuda.memory_free_bytes() if self._gpu else 0

    def _started(
        self,
        segment: _native.Segment,
        order: Attach,
        eventfds: Mapping[int, int],
    ) -> _native.Instance:
        cuda = self._gpu.cuda if self._gpu else None
        if not self._engine.native:
            warm = warm_up(self._engine, self.spec, self.signature, cuda)
            if order.timed:  # now, for a lane belongs to the pump once there is one
                timing = Timing(self._engine, self.spec, self.signature, cuda, warm)
                self.timed = self._under_limit(
                    lambda: [self._measured(each) for each in timing.measure_quickly(order.timed)]
                )
        instance = _native.Instance(
            segment,
            order.instance,
            native_signature(self.signature),
            self.spec.lanes,
            None if self._engine.native else self._engine.prepare,
            cuda,
            in_place=self._engine.native and self.spec.args.get("in_place") is True,
        )
        for frontend, eventfd in eventfds.items():
            instance.add_frontend(frontend, eventfd)
        if self.board is not None:
            instance.take_turns(self.board, order.turn)
        instance.start()
        self.lane_tids = frozenset(instance.lane_tids())
        return instance

    def _device(self) -> Device:
        if self._gpu is not None:
            return GpuDevice(self._gpu.cuda, self._cpus, self._gpu.weights)
        return CpuDevice(self._cpus, self.share_percent)

    def _under_limit(self, work: Callable[[], _T]) -> _T:
        """Runs what computes without a lane where a share limits it as it does a lane.

        On a GPU it does so anywhere. On the CPU device it takes a thread: the one that we are in
        must never be limited.
        """
        if self._gpu is not None:
            return work()
        with ThreadPoolExecutor(1, "gslice-timing") as lane:
            lane.submit(_log.debug, "timing").result()  # it exists from now on
            self._limit()
            return lane.submit(work).result()

    def _measured(self, times: Times) -> Measured:
        median_us = times.median_us(self._limiter.period_us)
        return Measured(
            times.bucket,
            median_us,
            max(median_us, times.p99_us),
            len(times.each_us),
            float(times.each_us.sum()),
            self.share_effective_percent,
            self.limiter,
            self.threads,
        )

    def _limit(self) -> None:
        spec, tids = self.spec, self._compute_tids()
        if not self._limited:
            self._limiter = self._held or make_limiter(
                self.order.limiter, self._cpus, spec.name, spec.priority
            )
            self._limited = True
        self._limiter.apply(self.share_percent, tids)
        if not prioritise(tids, spec.priority):
            _log.warning("priority %s needs the right to raise it; it stays normal", spec.priority)
        effective = self.share_effective_percent
        _log.info("share %g %%, effective %g %% by %s", self.share_percent, effective, self.limiter)

    def _compute_tids(self) -> list[int]:
        """The lanes, and what the engine has made: at load, or from a lane while it ran."""
        one = self._instance
        pump = {one.pump_tid(), one.turn_tid()} if one is not None else set()
        return sorted(thread_ids() - self._control_tids - pump)
