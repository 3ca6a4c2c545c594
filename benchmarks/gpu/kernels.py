"""Kernels as PTX, which every driver compiles itself: doctor's timed one, and one that faults."""

from __future__ import annotations

from ctypes import c_uint, c_void_p
from statistics import median

from benchmarks.gpu.driver import Gpu
from gslice.device.burn import BLOCKS_PER_SM, ENTRY, PTX, THREADS, TURNS

FAULT = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry gslice_fault()
{
    .reg .b64 %d<2>;
    mov.u64 %d1, 16;
    st.global.u64 [%d1], %d1;
    ret;
}
"""
"""Writes where nothing is."""


class Burn:
    """A kernel whose time depends on nothing but how many multiprocessors run it.

    Args:
        gpu: Where.
        whole_multiprocessors: Of the whole GPU: the work is the same at every share.
        turns: How much arithmetic.
        waves: Blocks for each of these multiprocessors.
        stream: Where it runs; default: a stream of its own.
    """

    def __init__(
        self,
        gpu: Gpu,
        whole_multiprocessors: int,
        *,
        turns: int = TURNS,
        waves: float = BLOCKS_PER_SM,
        stream: int | None = None,
    ) -> None:
        self._gpu = gpu
        self._blocks = max(1, round(whole_multiprocessors * waves))
        self._kernel = gpu.load(PTX, ENTRY)
        self._out = gpu.allocate(256)
        self._arguments = (c_void_p(self._out), c_uint(turns))
        self.stream = gpu.stream() if stream is None else stream
        self._events = (gpu.event(timed=True), gpu.event(timed=True))

    def launch(self) -> None:
        """Enqueues it."""
        self._gpu.launch(self._kernel, self._blocks, THREADS, self._arguments, self.stream)

    def time_us(self, repeats: int = 15) -> float:
        """Its median time, by events around it."""
        begin, end = self._events
        times = []
        self.launch()
        for _ in range(repeats):
            self._gpu.record(begin, self.stream)
            self.launch()
            self._gpu.record(end, self.stream)
            self._gpu.wait(self.stream)
            times.append(self._gpu.elapsed_us(begin, end))
        return round(median(times), 2)


def fault(gpu: Gpu) -> None:
    """Ends this context for good.

    Raises:
        CudaError: Always, once the GPU has noticed.
    """
    stream = gpu.stream()
    gpu.launch(gpu.load(FAULT, "gslice_fault"), 1, 1, (), stream)
    gpu.wait(stream)
