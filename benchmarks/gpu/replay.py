"""The least that a batch costs: a copy a slot, a graph, a copy an answer, one event."""

from __future__ import annotations

import mmap
import statistics
from ctypes import c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.kernels import Burn
from benchmarks.gpu.pumped import Capture, Place

_ALIGN = 4096
_AHEAD_TURNS = 400_000  # arithmetic that keeps the stream busy until everything is enqueued


class Replay:
    """A batch by hand, from pinned slots to pinned answers. A context manager.

    Args:
        gpu: Where.
        rows: Requests in the batch.
        row_bytes: Of a request's input.
        answer_bytes: Of its output.
        capture: Makes the graph.

    Attributes:
        place: The batch on the GPU.
        launch: Enqueues the graph.
    """

    def __init__(
        self,
        gpu: Gpu,
        rows: int,
        row_bytes: int,
        answer_bytes: int,
        capture: Capture,
    ) -> None:
        self._gpu = gpu
        slot_bytes = -(-(row_bytes + answer_bytes) // _ALIGN) * _ALIGN
        # Not closed by hand: arrays keep views of it.
        memory = np.frombuffer(mmap.mmap(-1, rows * slot_bytes), np.uint8)
        self._base = memory.ctypes.data
        gpu.register(self._base, rows * slot_bytes)
        slots = memory.reshape(rows, slot_bytes)
        self._slots = slots[:, :row_bytes]
        self._answers = slots[:, row_bytes : row_bytes + answer_bytes]
        self.place = Place(
            rows, gpu.allocate(rows * row_bytes), gpu.allocate(rows * answer_bytes), gpu.stream()
        )
        self.graph = capture(self.place)
        self._event = gpu.event()
        stream = c_void_p(self.place.stream)
        self._copies_in = [
            gpu.ready(
                "cuMemcpyHtoDAsync_v2",
                c_void_p(self.place.input + row * row_bytes),
                *(c_void_p(slot.ctypes.data), c_size_t(row_bytes), stream),
            )
            for row, slot in enumerate(self._slots)
        ]
        self._copies_out = [
            gpu.ready(
                "cuMemcpyDtoHAsync_v2",
                c_void_p(answer.ctypes.data),
                c_void_p(self.place.output + row * answer_bytes),
                *(c_size_t(answer_bytes), stream),
            )
            for row, answer in enumerate(self._answers)
        ]
        self.launch = gpu.ready("cuGraphLaunch", c_void_p(self.graph.executable), stream)
        self._record = gpu.ready("cuEventRecord", c_void_p(self._event), stream)

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self._gpu.wait(self.place.stream)
        self._gpu.unregister(self._base)
        self._gpu.free(self.place.input)
        self._gpu.free(self.place.output)

    def fill(self, rows: NDArray[Any]) -> None:
        """Puts a row of a batch into each slot."""
        for slot, row in zip(self._slots, rows, strict=True):
            slot[:] = np.ascontiguousarray(row).view(np.uint8).ravel()

    def answers(self) -> NDArray[np.float32]:
        """What the slots got, a row each."""
        return np.stack([np.frombuffer(row.tobytes(), np.float32) for row in self._answers])

    def run(self) -> None:
        """One batch."""
        self.copy_in()
        self.launch()
        self.copy_out()
        self.poll()

    def copy_in(self) -> None:
        """Enqueues a copy for each slot."""
        for copy in self._copies_in:
            copy()

    def copy_out(self) -> None:
        """Enqueues a copy for each answer."""
        for copy in self._copies_out:
            copy()

    def wait(self) -> None:
        """Synchronises with the stream."""
        self._gpu.wait(self.place.stream)

    def poll(self) -> None:
        """Polls an event until the stream got to it."""
        self._record()
        while not self._gpu.reached(self._event):
            pass

    def device_us(self, repeats: int = 20) -> float:
        """How long the GPU itself takes, when nothing waits for the host: median."""
        begin, end = self._gpu.event(timed=True), self._gpu.event(timed=True)
        ahead = Burn(self._gpu, 1, turns=_AHEAD_TURNS, waves=1, stream=self.place.stream)
        times = []
        for _ in range(repeats):
            ahead.launch()
            self._gpu.record(begin, self.place.stream)
            self.copy_in()
            self.launch()
            self.copy_out()
            self._gpu.record(end, self.place.stream)
            self.wait()
            times.append(self._gpu.elapsed_us(begin, end))
        return statistics.median(times)


class CopyGraph:
    """A graph of one copy on the GPU, captured by the driver: the least that can be computed.

    Args:
        gpu: Where.
        place: Of the batch.
        size_bytes: What is copied from the input to the output.
    """

    def __init__(self, gpu: Gpu, place: Place, size_bytes: int) -> None:
        gpu.begin_capture(place.stream)
        gpu.move(place.output, place.input, size_bytes, place.stream)
        self.executable = gpu.end_capture(place.stream)
        self.keep = gpu
