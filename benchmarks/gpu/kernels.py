"""Kernels as PTX, which every driver since CUDA 11 compiles itself."""

from __future__ import annotations

from ctypes import c_uint, c_void_p
from statistics import median

from benchmarks.gpu.driver import Gpu

THREADS = 1024
WAVES = 16  # blocks for each multiprocessor of the whole GPU: the last wave hardly shows

BURN = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry burn(.param .u64 out, .param .u32 turns)
{
    .reg .pred %p<3>;
    .reg .f32 %f<3>;
    .reg .b32 %r<3>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [turns];
    mov.u32 %r2, 0;
    mov.f32 %f1, 0f3F800000;
    mov.f32 %f2, 0f3F000000;
LOOP:
    fma.rn.f32 %f1, %f1, %f2, %f2;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra LOOP;
    setp.lt.f32 %p2, %f1, 0f00000000;
    @%p2 st.global.f32 [%d1], %f1;
    ret;
}
"""
"""Arithmetic alone, `turns` times a thread; the store, never reached, keeps the loop alive."""

FAULT = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry fault()
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
        turns: int = 20_000,
        waves: float = WAVES,
        stream: int | None = None,
    ) -> None:
        self._gpu = gpu
        self._blocks = max(1, round(whole_multiprocessors * waves))
        self._kernel = gpu.load(BURN, "burn")
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
    gpu.launch(gpu.load(FAULT, "fault"), 1, 1, (), stream)
    gpu.wait(stream)
