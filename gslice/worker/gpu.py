"""The GPU of a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gslice._native import CudaDevice


@dataclass(frozen=True)
class GpuDevice:
    """A GPU as engines get it: opened, and limited to the share already.

    Attributes:
        cuda: The open device; its lanes' streams are where engines enqueue.
        cpus: Cores for the worker's own threads.
    """

    cuda: CudaDevice
    cpus: tuple[int, ...]

    @property
    def threads(self) -> int:
        """Threads that an engine may use on the CPU."""
        return max(1, len(self.cpus))
