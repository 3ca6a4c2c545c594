"""The GPU of a worker: opened before its engine loads, read back, measured, closed last."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice import _native
from gslice.core.errors import FailedPrecondition
from gslice.device.sm_groups import Seat
from gslice.worker.green import GREEN, GreenGpu, GreenShare
from gslice.worker.weights import WeightStore

if TYPE_CHECKING:
    from gslice.ipc.messages import GpuGrant, Load

_log = logging.getLogger(__name__)

LEGACY_STREAM = 1
"""The driver's handle of the default stream, which lanes' streams do not wait for."""

ORDINAL = 0  # the worker's environment hides all the others


@dataclass(frozen=True)
class GpuDevice:
    """A GPU as engines get it: opened, and limited to the share already.

    Attributes:
        cuda: The open device; its lanes' streams are where engines enqueue.
        cpus: Cores for the worker's own threads.
        weights: Where the model's weights go.
    """

    cuda: _native.CudaDevice
    cpus: tuple[int, ...]
    weights: WeightStore

    @property
    def threads(self) -> int:
        """Threads that an engine may use on the CPU."""
        return max(1, len(self.cpus))


class WorkerGpu:
    """The GPU that a worker was granted.

    Args:
        order: What is to be loaded on it.
        grant: Which GPU, and how large all of it is.
        weights_fd: Of the weights that the order tells of; stays the caller's.
        shared: The GPU as the functions of this process have it in common; None: it has one only.

    Attributes:
        limiter: `mps`, which the environment has set up, `green`, or `none`.
        cuda: The open device.
        weights: Where the function's weights go.

    Raises:
        FailedPrecondition: There is no driver, the worker sees another GPU, or the limiter does not
            work here.
        Unavailable: MPS refuses.
        ResourceExhausted: The GPU's memory is full.
    """

    def __init__(
        self, order: Load, grant: GpuGrant, weights_fd: int = -1, shared: GreenGpu | None = None
    ) -> None:
        self._grant = grant
        self.limiter = order.limiter
        self.green: GreenShare | None = None
        if order.limiter == GREEN:
            seat = Seat(order.spec.name, order.seat)
            self.green = GreenShare(shared or GreenGpu(ORDINAL), grant.sms, seat)
        try:
            self.cuda = self._opened(order)
        except BaseException:
            if self.green is not None:
                self.green.close()
            raise
        self.weights = WeightStore(self.cuda, order.model, order.weights, weights_fd)
        _log.info(
            "%s, %d of %d SMs, %g %% by %s",
            *(self.cuda.name, self.cuda.lane_sms, grant.sms),
            *(self.share_effective_percent, self.limiter),
        )

    @property
    def share_effective_percent(self) -> float:
        """The SMs that kernels of the function may use, as the driver says."""
        return 100.0 * self.cuda.lane_sms / self._grant.sms

    def close(self) -> None:
        """Waits for what the streams still run and gives the GPU back; idempotent."""
        self.cuda.close()
        self.weights.close()
        if self.green is not None:
            self.green.close()

    def _opened(self, order: Load) -> _native.CudaDevice:
        lanes = order.spec.lanes
        if self.green is None:
            cuda = _native.CudaDevice(ORDINAL, lanes)
        else:
            cuda = self.green.opened(order.share_percent, lanes)
        # The driver tells 16 bytes, whose prefix, GPU or MIG, nobody can see.
        if (uuid := cuda.uuid).partition("-")[2] != self._grant.uuid.partition("-")[2]:
            cuda.close()
            raise FailedPrecondition(f"the worker sees {uuid}, not {self._grant.uuid}")
        return cuda
