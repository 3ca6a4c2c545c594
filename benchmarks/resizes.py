"""What resizes did, by what the daemon measured and by what a client saw meanwhile."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row
from benchmarks.load import Call
from gslice._native import MAX_INSTANCES, Segment, histogram_bounds_us
from gslice.client.load import percentile
from gslice.telemetry.window import percentile_us

MIB = 1 << 20

_FIGURES = re.compile(r"[0-9][0-9.]*")


@dataclass(frozen=True)
class Resize:
    """One resize that was done. Times are `time.perf_counter()`.

    Attributes:
        begun_s: When it was ordered.
        ended_s: When it was done: the new share serves, and nothing is left of the old worker.
        resized: The daemon's `gslice.v1.Resized`.
        first_wait_us: Dispatch wait of the first claim of whoever took over; NaN: of none, because
            nobody did, or no request came.
    """

    begun_s: float
    ended_s: float
    resized: Any
    first_wait_us: float = math.nan


class DispatchWaits:
    """The dispatch waits of a function at chosen times, such as while no resize is under way."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._bins = np.zeros_like(self._read())

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """What is claimed meanwhile counts."""
        before = self._read()
        yield
        self._bins += self._read() - before

    @property
    def count(self) -> int:
        """Of how many batches."""
        return int(self._bins.sum())

    def percentile_us(self, percent: float) -> float:
        """Of all that counted so far."""
        return percentile_us(self._bins, histogram_bounds_us(), percent / 100)

    def _read(self) -> NDArray[np.int64]:
        bins: NDArray[np.uint64] = self.segment.stats()["stage"]["dispatch"]["bins"]
        return bins.astype(np.int64)


def first_wait_us(segment: Segment) -> float:
    """What the pump that serves has stamped since it may; NaN: no request came yet.

    The daemon tells the same, but already when the old worker has ended: at low rates too early.
    """
    (pulling,) = (i for i in range(MAX_INSTANCES) if segment.may_pull(i))
    wait_ns = int(segment.instance_stamps(pulling)["first_wait_ns"])
    return wait_ns / 1000 if wait_ns >= 0 else math.nan


def swap_figures(resizes: Sequence[Resize], usual_wait_us: float) -> Row:
    """What the daemon measured; empty where no worker was replaced.

    Args:
        resizes: All of one path.
        usual_wait_us: Dispatch wait at other moments; what a swap's is longer is its hole.
    """
    swaps = [swap for resize in resizes for swap in resize.resized.swaps]
    if not swaps:
        return {}
    waits_us = (resize.first_wait_us for resize in resizes)
    holes = sorted(wait_us - usual_wait_us for wait_us in waits_us if not math.isnan(wait_us))
    flips = [swap.flip_us for swap in swaps]
    return {
        "holes": len(holes),
        "hole_us_p50": _rounded(percentile(holes, 50)),
        "hole_us_p99": _rounded(percentile(holes, 99)),
        "hole_us_max": _rounded(holes[-1] if holes else math.nan),
        "flip_us_p50": round(statistics.median(flips), 1),
        "prepare_ms_p50": round(statistics.median(r.resized.prepare_ms for r in resizes), 1),
        "extra_memory_mb": round(max(r.resized.extra_memory_bytes for r in resizes) / MIB, 1),
    }


def in_place_figures(
    resizes: Sequence[Resize], meanwhile: DispatchWaits, usual_wait_us: float
) -> Row:
    """What was claimed while shares changed in place; empty where workers were replaced.

    Args:
        resizes: All of one path.
        meanwhile: Dispatch waits while they were under way.
        usual_wait_us: The same at other moments; what is longer is the hole.
    """
    if any(resize.resized.path != "in place" for resize in resizes):
        return {}
    holes = {
        f"hole_us_{name}": _rounded(meanwhile.percentile_us(percent) - usual_wait_us)
        for name, percent in (("p50", 50), ("p99", 99), ("max", 100))
    }
    prepared_ms = round(statistics.median(r.resized.prepare_ms for r in resizes), 1)
    return {"holes": meanwhile.count, **holes, "prepare_ms_p50": prepared_ms}


def client_figures(resizes: Sequence[Resize], calls: Sequence[Call]) -> Row:
    """What the client saw.

    A request belongs to the resizes if it waited or ran at any moment of one.

    Args:
        resizes: One after the other.
        calls: All requests, also those before and after.
    """
    ends = [resize.ended_s for resize in resizes]
    steady: list[Call] = []
    during: list[Call] = []
    for call in calls:
        if not call.lost:
            index = bisect.bisect_left(ends, call.due_s)
            met = index < len(ends) and resizes[index].begun_s <= call.answered_s
            (during if met else steady).append(call)
    return {
        "requests": len(calls),
        "waiting_max": _waiting_max(calls),
        "lost": sum(call.lost for call in calls),
        "errors": _errors(steady) + _errors(during),
        "errors_during": _errors(during),
        "p99_ms_steady": _p99_ms(steady),
        "p99_ms_during": _p99_ms(during),
        **_seen(calls),
    }


def _waiting_max(calls: Sequence[Call]) -> int:
    """How many requests were without an answer at once: what a queue had to hold, or refused."""
    answered = [call for call in calls if not call.lost]
    changes = sorted([(c.due_s, 1) for c in answered] + [(c.answered_s, -1) for c in answered])
    return max(itertools.accumulate(change for _, change in changes), default=0)


def _seen(calls: Sequence[Call]) -> Row:
    """What errors said and within what time, so that nobody has to guess.

    Texts that differ in their figures alone are the same.
    """
    times_s: dict[str, list[float]] = {}
    for call in calls:
        if call.error:
            times_s.setdefault(_FIGURES.sub("#", call.error), []).append(call.answered_s)
    told = "; ".join(
        f"{len(times)} x {text} (within {max(times) - min(times):.2f} s)"
        for text, times in sorted(times_s.items(), key=lambda item: -len(item[1]))
    )
    return {"seen": told} if told else {}


def _errors(calls: Sequence[Call]) -> int:
    return sum(bool(call.error) for call in calls)


def _p99_ms(calls: Sequence[Call]) -> float | None:
    latencies_s = sorted(call.answered_s - call.due_s for call in calls if not call.error)
    return _rounded(1e3 * percentile(latencies_s, 99), 3)


def _rounded(value: float, digits: int = 1) -> float | None:
    return None if math.isnan(value) else round(value, digits)
