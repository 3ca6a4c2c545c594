"""A function's queue, request by request: what `gslice.control.waiting` is held against."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass
from math import exp

import numpy as np

from gslice.control.latency import LatencyModel, Measurement
from gslice.control.waiting import Load

SHARE = 50.0
BUCKETS = (1, 2, 4, 8, 16, 32)
SHAPES_US = {"flat": (1000, 50), "steep": (300, 700), "middle": (1000, 300), "half": (500, 100)}
"""Of a batch, and of each row of it, at the full share."""


@dataclass(frozen=True)
class Case:
    shape: str
    deviation: float
    """Of the logarithm of a batch's time."""
    instances: int
    batch_max: int
    burstiness: float
    busy: float
    """Part of the capacity that is asked for."""
    delay_us: float = 0.0

    def model(self) -> LatencyModel:
        batch_us, row_us = SHAPES_US[self.shape]
        tail = exp(2.3263 * self.deviation)
        return LatencyModel.fit(
            [
                Measurement(b, p, time_us, time_us * tail, 100)
                for b in BUCKETS
                for p in (20.0, SHARE, 100.0)
                for time_us in [(batch_us + row_us * b) * (100 / p) ** 0.7]
            ]
        )

    def load(self, model: LatencyModel) -> Load:
        full_us = model.mean_curve(SHARE).time_us(self.batch_max)
        rate_per_s = self.busy * self.instances * self.batch_max / full_us * 1e6
        return Load(rate_per_s, self.instances, 1.0, self.burstiness, self.delay_us)


def simulated_us(
    case: Case, model: LatencyModel, load: Load, requests: int, percentile: float = 99.0
) -> float:
    """The percentile of latencies when whoever is free claims all that is queued."""
    rng = np.random.default_rng(5)
    arrivals = arrivals_us(rng, load, requests)
    curve = model.median_curve(SHARE)
    noise = np.exp(case.deviation * rng.standard_normal(len(arrivals))).tolist()
    free_us = [0.0] * case.instances
    latencies: list[float] = []
    first = 0
    while first < len(arrivals):
        start = max(heapq.heappop(free_us), arrivals[first])
        if load.delay_us:
            full_at = arrivals[min(len(arrivals) - 1, first + case.batch_max - 1)]
            start = max(start, min(arrivals[first] + load.delay_us, full_at))
        after = min(bisect_right(arrivals, start, first), first + case.batch_max)
        end = start + curve.time_us(after - first) * noise[first]
        latencies += [end - arrived for arrived in arrivals[first:after]]
        heapq.heappush(free_us, end)
        first = after
    return float(np.percentile(latencies[len(latencies) // 20 :], percentile))


def arrivals_us(rng: np.random.Generator, load: Load, requests: int) -> list[float]:
    """Poisson, of groups with a geometric size: counts of the load's dispersion."""
    ends = 2 / (load.burstiness + 1)
    sizes = rng.geometric(ends, int(requests * ends) + 1)
    gaps_us = rng.exponential(1e6 / (load.rate_per_s * ends), len(sizes))
    return np.repeat(np.cumsum(gaps_us), sizes).tolist()
