"""The law a batch's time follows, and how its coefficients are found."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_SUBSETS = np.array([m for m in product((0.0, 1.0), repeat=4) if any(m)])
_PER_ROW, _PER_SHARE = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
_SAME_RMS = 0.01
"""Saturation shares that fit the points this much alike, in relative error, are equally good."""


@dataclass(frozen=True)
class Form:
    """`t(b, p) = fixed + row * b + (work + row_work * b) / min(p, saturation)`, in us.

    What a share does not speed up (launches, copies, the serial part) and what it does, until the
    batch cannot use more of the device. All coefficients are 0 or more, so the law rises with rows
    and falls with the share. A kin of iGniter's `(k1 b^2 + k2 b + k3) / (r + k4) + k5` without its
    square, whose `k4` cannot express that more share buys nothing (facts from its code).

    Attributes:
        fixed_us: Whatever the batch and the share.
        row_us: A row, whatever the share.
        work_us_percent: A batch, divided by the share in percent.
        row_work_us_percent: A row, divided by the share in percent.
        saturation_percent: More share than this buys nothing.
    """

    fixed_us: float
    row_us: float
    work_us_percent: float
    row_work_us_percent: float
    saturation_percent: float

    @classmethod
    def fit(
        cls, rows: Sequence[float], shares_percent: Sequence[float], times_us: Sequence[float]
    ) -> Form:
        """Least squares of the relative error, over the coefficients that are not negative.

        Each of the 15 subsets of coefficients is solved without bounds, and the best solution
        without a negative one is the bounded optimum: an active set, tried out in full. What the
        points cannot tell apart goes to the term that promises less elsewhere: with one share
        measured, all is work (`1/p` below it); with one bucket, all is rows (in proportion above).

        Args:
            rows: Rows of each measured batch; at least one batch.
            shares_percent: Its share.
            times_us: What it took.
        """
        b, p, t = (
            np.asarray(values, dtype=np.float64) for values in (rows, shares_percent, times_us)
        )
        candidates = np.unique(p)
        usable = _SUBSETS if len(np.unique(b)) > 1 else _SUBSETS[(_SUBSETS <= _PER_ROW).all(axis=1)]
        best: list[tuple[float, Array]] = []
        for saturation in candidates:
            subsets = usable
            if saturation == candidates[0]:
                subsets = usable[(usable <= _PER_SHARE).all(axis=1)]
            best.append(_solve(_columns(b, np.minimum(p, saturation)) / t[:, None], subsets))
        good_enough = min(rms for rms, _ in best) + _SAME_RMS
        # The smallest, for caution: below it less share costs the most.
        chosen = next(i for i, (rms, _) in enumerate(best) if rms <= good_enough)
        fixed, row, work, row_work = best[chosen][1].tolist()
        return cls(fixed, row, work, row_work, float(candidates[chosen]))

    def time_us(self, rows: float, share_percent: float) -> float:
        """What a batch takes by the law alone."""
        share = min(share_percent, self.saturation_percent)
        work = self.work_us_percent + self.row_work_us_percent * rows
        return self.fixed_us + self.row_us * rows + work / share


def _columns(rows: Array, shares: Array) -> Array:
    return np.stack([np.ones_like(rows), rows, 1 / shares, rows / shares], axis=1)


def _solve(columns: Array, subsets: Array) -> tuple[float, Array]:
    """The best non-negative solution of `columns @ k = 1`: its root mean square error, and `k`."""
    norms = np.linalg.norm(columns, axis=0)
    unit = columns / norms
    gram, moment = unit.T @ unit, unit.sum(axis=0)
    # A column that is left out becomes one of the identity; the ridge keeps twins solvable.
    grams = gram * subsets[:, :, None] * subsets[:, None, :]
    grams += (1 - subsets)[:, :, None] * np.eye(4) + 1e-10 * np.eye(4)
    solutions = np.linalg.solve(grams, (subsets * moment)[:, :, None])[:, :, 0]
    residuals = np.sqrt(np.mean((solutions @ unit.T - 1) ** 2, axis=1))
    residuals[(solutions < 0).any(axis=1)] = np.inf
    best = int(np.argmin(residuals))
    return float(residuals[best]), solutions[best] / norms
