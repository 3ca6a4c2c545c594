"""Rates and percentiles of the last seconds, from differences of counters that only grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Sample:
    """Counters of a function at one moment.

    Attributes:
        now_ns: The moment.
        answered: Requests answered well so far.
        rows: Rows run so far.
        executions: Batches run so far.
        total_bins: Latency histogram so far, from admission to answer.
    """

    now_ns: int
    answered: int
    rows: int
    executions: int
    total_bins: NDArray[np.uint64]


@dataclass(frozen=True)
class Figures:
    """What a function did in a window; zeros when nothing happened.

    Attributes:
        rate_per_s: Requests answered well.
        p50_us: Median latency.
        p99_us: Latency at the 99th percentile.
        batch_mean_rows: Rows in a batch.
        attainment: Part of the answers that came within the SLO; 0 without one.
    """

    rate_per_s: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    batch_mean_rows: float = 0.0
    attainment: float = 0.0


class Window:
    """Keeps samples of the last seconds.

    Args:
        span_ns: How far back figures reach.
    """

    def __init__(self, span_ns: int = 5 * SECOND_NS) -> None:
        self._span_ns = span_ns
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Takes a new sample, of the same counters as those before."""
        self._samples.append(sample)
        # The oldest kept is the newest that covers the whole span.
        while len(self._samples) > 2 and sample.now_ns - self._samples[1].now_ns >= self._span_ns:
            self._samples.popleft()

    def figures(self, bounds_us: NDArray[np.float64], slo_us: float = 0.0) -> Figures:
        """What happened between the oldest and the newest sample.

        Args:
            bounds_us: Bin i of the histogram covers [bounds_us[i], bounds_us[i + 1]).
            slo_us: Promised latency; 0: none.
        """
        if len(self._samples) < 2:
            return Figures()
        old, new = self._samples[0], self._samples[-1]
        elapsed_s = (new.now_ns - old.now_ns) / SECOND_NS
        if elapsed_s <= 0:
            return Figures()
        bins = new.total_bins.astype(np.int64) - old.total_bins.astype(np.int64)
        executions = new.executions - old.executions
        return Figures(
            rate_per_s=(new.answered - old.answered) / elapsed_s,
            p50_us=percentile_us(bins, bounds_us, 0.50),
            p99_us=percentile_us(bins, bounds_us, 0.99),
            batch_mean_rows=(new.rows - old.rows) / executions if executions > 0 else 0.0,
            attainment=entries_within(bins, bounds_us, slo_us) / bins.sum()
            if slo_us and bins.any()
            else 0.0,
        )


def percentile_us(
    bins: NDArray[np.int64], bounds_us: NDArray[np.float64], fraction: float
) -> float:
    """The latency that `fraction` of the entries do not exceed; 0 for an empty histogram.

    Inside a bin the entries count as spread evenly.
    """
    total = int(bins.sum())
    if total <= 0:
        return 0.0
    wanted = fraction * total
    cumulated = np.cumsum(bins)
    index = int(np.searchsorted(cumulated, wanted))
    inside = int(bins[index])
    below = int(cumulated[index]) - inside
    low, high = float(bounds_us[index]), float(bounds_us[index + 1])
    return low + (high - low) * ((wanted - below) / inside)


def entries_within(bins: NDArray[Any], bounds_us: NDArray[np.float64], limit_us: float) -> float:
    """How many entries do not exceed a latency; inside a bin they count as spread evenly."""
    cumulated = np.concatenate(([0], np.cumsum(bins)))
    return float(np.interp(limit_us, bounds_us, cumulated))
