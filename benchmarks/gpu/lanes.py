"""Two lanes at work in one process: when each copy and kernel ran, and what the pump makes of it.

The streams are those of the native core's lanes. A batch is what it is when served: a copy in, a
kernel, a copy out. All batches are enqueued ahead, lane by lane in turn, with timed events around
each piece, so the host is never what is waited for. The pump then runs batches of its own through
one lane and through two.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.kernels import Burn
from benchmarks.gpu.pumped import SLOTS, Place, Pumped
from gslice._native import CudaDevice
from gslice.device.burn import TURNS

KINDS = ("copy in", "compute", "copy out")
IN_BYTES = 8 << 20
OUT_BYTES = 512 << 10
BATCHES = 12  # of each lane
COMPUTE_PER_COPY = 1.5
ROW = (3, 224, 224)
ROWS = 8  # of a batch of the pump
OUTPUTS = 1000
_ROW_BYTES = 4 * math.prod(ROW)
_MOST_ROUNDS = 9
_LEAST_ROUNDS = 3


class Lane:
    """Batches on one stream, with an event at each seam.

    Args:
        gpu: Where.
        stream: A lane's.
        batches: How many can be enqueued at a time.
    """

    def __init__(self, gpu: Gpu, stream: int, batches: int) -> None:
        self.stream = stream
        self._gpu = gpu
        self._view = ctypes.c_char.from_buffer(mmap.mmap(-1, IN_BYTES))  # keeps the mapping
        self._host = ctypes.addressof(self._view)
        gpu.register(self._host, IN_BYTES)
        self._memory = gpu.allocate(IN_BYTES)
        self._seams = [[gpu.event(timed=True) for _ in range(4)] for _ in range(batches)]
        self.burn = Burn(gpu, gpu.multiprocessors(), stream=stream)

    def close(self) -> None:
        """Gives memory back; the stream is idle."""
        self._gpu.unregister(self._host)
        self._gpu.free(self._memory)

    def match(self, copy_us: float) -> None:
        """Makes the kernel so much longer than a copy in."""
        turns = TURNS * COMPUTE_PER_COPY * copy_us / max(1.0, self.burn.time_us(5))
        whole = self._gpu.multiprocessors()
        self.burn = Burn(self._gpu, whole, turns=max(1, round(turns)), stream=self.stream)

    def enqueue(self, number: int) -> None:
        """A batch."""
        gpu, stream, seams = self._gpu, self.stream, self._seams[number]
        gpu.record(seams[0], stream)
        gpu.upload(self._memory, self._host, IN_BYTES, stream)
        gpu.record(seams[1], stream)
        self.burn.launch()
        gpu.record(seams[2], stream)
        gpu.download(self._host, self._memory, OUT_BYTES, stream)
        gpu.record(seams[3], stream)

    def times_us(self, number: int, since: int) -> list[float]:
        """When a batch got to its seams, after an event; once all is over."""
        return [self._gpu.elapsed_us(since, seam) for seam in self._seams[number]]


def trace(gpu: Gpu, lanes: Sequence[Lane], batches: int) -> list[list[Any]]:
    """Runs batches in lanes; of each piece its lane, batch, kind, begin and end, in microseconds.

    It begins when the stream gets to it, and so may first wait for others that want the same.
    """
    begin = gpu.event(timed=True)
    gpu.record(begin, lanes[0].stream)
    for lane in lanes[1:]:
        lane.burn.launch()  # else equal lanes would go in step, and all copy at the same time
    for number in range(batches):
        for lane in lanes:
            lane.enqueue(number)
    for lane in lanes:
        gpu.wait(lane.stream)
    spans: list[list[Any]] = []
    for place, lane in enumerate(lanes):
        for number in range(batches):
            times = lane.times_us(number, begin)
            for kind, *span in zip(KINDS, times[:-1], times[1:], strict=True):
                spans.append([place, number, kind, *(round(at, 2) for at in span)])
    return spans


def measure(seconds: float) -> dict[str, Any]:
    """Everything of one process.

    Args:
        seconds: For all rounds.

    Returns:
        `alone_us`: a piece by itself; `spans`: see `trace`, of the round with the middle length;
        `one_lane_us`, `two_lanes_us`: all batches; `pump_one_lane_us`, `pump_two_lanes_us`: those
        of the pump.
    """
    end = time.perf_counter() + seconds
    with Gpu() as gpu:
        device = CudaDevice(0, 2)
        lanes = [Lane(gpu, device.lane_stream(i), 2 * BATCHES) for i in range(2)]
        first = _alone_us(trace(gpu, lanes[:1], BATCHES))
        for lane in lanes:
            lane.match(first["copy in"])
        one: list[list[list[Any]]] = []
        two: list[list[list[Any]]] = []
        while len(two) < _LEAST_ROUNDS or (len(two) < _MOST_ROUNDS and _half(end, seconds)):
            one.append(trace(gpu, lanes[:1], 2 * BATCHES))
            two.append(trace(gpu, lanes, BATCHES))
        for lane in lanes:
            lane.close()
        device.close()
        middle = sorted(two, key=_length_us)[len(two) // 2]
        return {
            "sms": gpu.multiprocessors(),
            "alone_us": _alone_us([span for spans in one for span in spans]),
            "spans": middle,
            "one_lane_us": round(statistics.median(map(_length_us, one)), 1),
            "two_lanes_us": round(_length_us(middle), 1),
            **_pump_us(gpu, first["copy in"], end),
        }


def _half(end: float, seconds: float) -> bool:
    """Whether half of the time is left, which is the pump's."""
    return end - time.perf_counter() > seconds / 2


def _length_us(spans: Sequence[Sequence[Any]]) -> float:
    return float(max(span[4] for span in spans) - min(span[3] for span in spans))


def _alone_us(spans: Sequence[Sequence[Any]]) -> dict[str, float]:
    """How long each kind of piece takes, of a lane that was alone."""
    return {
        kind: round(statistics.median(end - begin for *_, of, begin, end in spans if of == kind), 2)
        for kind in KINDS
    }


class _KernelGraph:
    """A graph of one kernel and what fills the output."""

    def __init__(self, gpu: Gpu, place: Place, turns: int) -> None:
        self._burn = Burn(gpu, gpu.multiprocessors(), turns=turns, stream=place.stream)
        gpu.begin_capture(place.stream)
        self._burn.launch()
        gpu.move(place.output, place.input, 4 * OUTPUTS * place.bucket, place.stream)
        self.executable = gpu.end_capture(place.stream)
        self.keep = gpu


def _pump_us(gpu: Gpu, copy_us: float, end: float) -> dict[str, float]:
    """All slots full of requests through the pump, with one lane and with two, in turns."""
    burn_us = Burn(gpu, gpu.multiprocessors()).time_us(5)
    batch_us = copy_us * ROWS * _ROW_BYTES / IN_BYTES
    turns = max(1, round(TURNS * COMPUTE_PER_COPY * batch_us / max(1.0, burn_us)))

    def capture(place: Place) -> _KernelGraph:
        return _KernelGraph(gpu, place, turns)

    function = (ROW, "FP32", OUTPUTS, (ROWS,), capture)
    with Pumped(*function, lanes=1) as one, Pumped(*function, lanes=2) as two:
        requests = one.requests(np.zeros((SLOTS, *ROW), np.float32))
        took: dict[str, list[float]] = {"pump_one_lane_us": [], "pump_two_lanes_us": []}
        rounds = 0
        while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and time.perf_counter() < end):
            for times, pumped in zip(took.values(), (one, two), strict=True):
                times.append(pumped.run(requests).total_us)
            rounds += 1
    # The first of each has all pages to touch.
    return {name: round(statistics.median(times[1:]), 1) for name, times in took.items()}
