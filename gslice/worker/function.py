"""The one function of a worker: load, attach, serve, drain, close."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from typing import TYPE_CHECKING

from gslice import _native
from gslice.core.errors import FailedPrecondition
from gslice.core.types import MemoryTaken
from gslice.device.cpu import CpuDevice
from gslice.device.limiter import Limiter, NoLimiter, make_limiter, prioritise
from gslice.device.niceness import lower, restore
from gslice.device.tasks import pin, thread_ids
from gslice.ipc.native import native_signature
from gslice.ipc.process import own_bytes
from gslice.worker.engines import make_engine
from gslice.worker.gpu import GpuDevice, WorkerGpu
from gslice.worker.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from gslice.core.types import Signature
    from gslice.ipc.messages import Load
    from gslice.worker.engines.base import Device
    from gslice.worker.weights import WeightStore

_log = logging.getLogger(__name__)


class ServedFunction:
    """A loaded function: its engine, its share and, once attached, its pump.

    Args:
        order: What to load, and the share to hold it to once it is attached. Until then nothing is
            limited: threads that a library starts inherit the limits of the thread that loads, and
            the pump and the control loop must have none.
        control_tids: Threads that were there before any engine: they compute nothing.
        weights_fd: Of the weights that the order tells of; stays the caller's.

    Attributes:
        memory: What it takes, by the steps that it has taken.

    Raises:
        LoadFailed: The engine's reason.
    """

    def __init__(self, order: Load, control_tids: Collection[int], weights_fd: int = -1) -> None:
        self.order = order
        self.spec = order.spec
        self.index = -1
        self.segment: _native.Segment | None = None
        self._cpus = tuple(order.cpus) or tuple(sorted(os.sched_getaffinity(0)))
        self.share_percent = order.share_percent
        self._limiter: Limiter = NoLimiter(self._cpus)
        self._instance: _native.Instance | None = None
        self._niceness = lower() if order.gently else None
        pin(thread_ids(), self._cpus)  # before the engine makes more threads, which inherit it
        self._gpu = WorkerGpu(order, order.gpu, weights_fd) if order.gpu else None
        self._control_tids = frozenset(control_tids)
        try:
            self._engine = make_engine(self.spec.engine)
            self.memory = MemoryTaken(process_bytes=own_bytes())
            with self._measured("model_bytes", "weights_bytes"):
                self.signature: Signature = self._engine.load(
                    self.spec, self._device(), order.known
                )
        except BaseException:  # nobody else has it, to close it
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

    def attach(
        self, segment_fd: int, index: int, eventfds: Mapping[int, int], context_bytes: int = 0
    ) -> None:
        """Warms up, starts the pump (which may not pull yet) and enforces the share.

        Args:
            segment_fd: Of the function's segment; stays the caller's.
            index: In the segment's instance table.
            eventfds: Of the front-ends known by now; stay the caller's.
            context_bytes: What the daemon measured of its memory.

        Raises:
            LoadFailed: Warming up failed.
            GsliceError: The segment or the limiter refused.
        """
        if self._instance is not None:
            raise FailedPrecondition(f"function {self.spec.name} is attached already")
        segment = _native.Segment.open(segment_fd)
        self.memory = dataclasses.replace(self.memory, context_bytes=context_bytes)
        with self._measured("warm_bytes", "workspace_bytes"):
            self._instance = self._started(segment, index, eventfds)
        restore(self._niceness)
        self.segment, self.index = segment, index
        # A share of a GPU is enforced there, and the identity engine has no compute thread.
        if self._gpu is None and not self._engine.native:
            self._limit()

    def set_share(self, share_percent: float) -> float:
        """Changes the share in place.

        Returns:
            The effective share, read back.

        Raises:
            FailedPrecondition: Its limiter cannot do that while it serves.
        """
        if self._gpu is not None or not self._limiter.live_resize:
            raise FailedPrecondition(f"limiter {self.limiter} cannot change a share in place")
        self.share_percent = share_percent
        if self._instance is None:
            return self.share_effective_percent
        self._limiter.apply(share_percent, self._compute_tids())
        return self.share_effective_percent

    def add_frontend(self, frontend: int, eventfd: int) -> None:
        """Lets a front-end be woken; the descriptor stays the caller's."""
        if self._instance is not None:
            self._instance.add_frontend(frontend, eventfd)

    def remove_frontend(self, frontend: int) -> None:
        """Forgets a front-end."""
        if self._instance is not None:
            self._instance.remove_frontend(frontend)

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

    @contextlib.contextmanager
    def _measured(self, on_host: str, on_gpu: str) -> Iterator[None]:
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
        self, segment: _native.Segment, index: int, eventfds: Mapping[int, int]
    ) -> _native.Instance:
        cuda = self._gpu.cuda if self._gpu else None
        if not self._engine.native:
            warm_up(self._engine, self.spec, self.signature, cuda)
        instance = _native.Instance(
            segment,
            index,
            native_signature(self.signature),
            self.spec.lanes,
            None if self._engine.native else self._engine.prepare,
            cuda,
        )
        for frontend, eventfd in eventfds.items():
            instance.add_frontend(frontend, eventfd)
        instance.start()
        return instance

    def _device(self) -> Device:
        if self._gpu is not None:
            return GpuDevice(self._gpu.cuda, self._cpus, self._gpu.weights)
        return CpuDevice(self._cpus, self.share_percent)

    def _limit(self) -> None:
        spec, tids = self.spec, self._compute_tids()
        self._limiter = make_limiter(self.order.limiter, self._cpus, spec.name, spec.priority)
        self._limiter.apply(self.share_percent, tids)
        if not prioritise(tids, spec.priority):
            _log.warning("priority %s needs the right to raise it; it stays normal", spec.priority)
        effective = self.share_effective_percent
        _log.info("share %g %%, effective %g %% by %s", self.share_percent, effective, self.limiter)

    def _compute_tids(self) -> list[int]:
        """The lanes, and what the engine has made: at load, or from a lane while it ran."""
        assert self._instance is not None
        return sorted(thread_ids() - self._control_tids - {self._instance.pump_tid()})
