"""A table of times over rows and shares that is monotone, and a line through it at one share."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Times at one share, over the rows of a batch.

    Attributes:
        buckets: Where times are known, ascending.
        times_us: At each.
        row_us: What each row above the last bucket adds.
        padded: Between two buckets the upper one's time holds.
    """

    buckets: tuple[int, ...]
    times_us: tuple[float, ...]
    row_us: float
    padded: bool

    def time_us(self, rows: float) -> float:
        """Of a batch of so many rows, a mean perhaps; below the smallest bucket as of that."""
        buckets, times = self.buckets, self.times_us
        above = bisect_left(buckets, rows)
        if above == 0:
            return times[0]
        if above == len(buckets):
            return times[-1] + self.row_us * (rows - buckets[-1])
        if self.padded:
            return times[above]
        low, high = buckets[above - 1], buckets[above]
        part = (rows - low) / (high - low)
        return times[above - 1] + part * (times[above] - times[above - 1])


def completed(known: Array, guess: Array) -> Array:
    """A full table that rises along both axes, near the known values.

    Where known values contradict the order, each moves half-way between the most that must not be
    above it and the least that must not be below. Guesses are held between their known neighbours.

    Args:
        known: Values to keep, NaN where there is none.
        guess: A value for everywhere.
    """
    settled = np.where(np.isnan(known), np.nan, np.mean(_bounds(known), axis=0))
    low, high = _bounds(settled)
    filled = np.where(np.isnan(settled), np.clip(guess, low, high), settled)
    return np.asarray(np.mean(_bounds(filled), axis=0))


def carried(values: Array, points: Array, nodes: Array) -> Array:
    """Values of scattered points, carried to nodes: the nearer a point, the more it counts.

    Inverse distance weighting (Shepard, 1968) with the fourth power, after each axis is scaled to
    the range of the points.

    Args:
        values: Of each point.
        points: Coordinates, (points, axes).
        nodes: Coordinates, (nodes, axes).
    """
    spread = np.ptp(points, axis=0)
    distances = (nodes[:, None, :] - points[None, :, :]) / np.where(spread > 0, spread, 1.0)
    weights = 1 / (np.sum(distances**2, axis=2) ** 2 + 1e-12)
    return np.asarray(weights @ values / weights.sum(axis=1))


def _bounds(values: Array) -> tuple[Array, Array]:
    """The largest known value at or before each node, and the smallest at or after it."""
    low = np.where(np.isnan(values), -np.inf, values)
    high = np.where(np.isnan(values), np.inf, values)
    for axis in (0, 1):
        low = np.maximum.accumulate(low, axis=axis)
        high = np.flip(np.minimum.accumulate(np.flip(high, axis), axis=axis), axis)
    return low, high


def between(nodes: Sequence[float], table: Array, at: float) -> Array:
    """The table's columns at a value between two nodes, linearly; at the ends the end's.

    Args:
        nodes: Ascending.
        table: A column for each node.
        at: Where.
    """
    above = bisect_left(nodes, at)
    if above == 0:
        return table[:, 0]
    if above == len(nodes):
        return table[:, -1]
    part = (at - nodes[above - 1]) / (nodes[above] - nodes[above - 1])
    return np.asarray((1 - part) * table[:, above - 1] + part * table[:, above])
