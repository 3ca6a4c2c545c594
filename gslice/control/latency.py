"""What a batch takes, by its rows and by the share: measured points, and a model between them."""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import log
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.control.latency_form import Form
from gslice.control.latency_table import Curve, between, carried, completed
from gslice.core.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_SUFFICIENT_POINTS = 4
"""From so many on, a left-out point is predicted by the others."""
_KNEE_STEPS = 64
_MEAN_PART = 0.05
_CURVES_MAX = 256


@dataclass(frozen=True)
class Measurement:
    """One point of a latency table.

    Attributes:
        bucket: Rows of the batch; 1 for a function that is not batchable.
        share_percent: One instance's effective share of its device.
        median_us: Of a batch: copy in, compute, copy out.
        p99_us: The same at the 99th percentile.
        batches: How many were timed.
    """

    bucket: int
    share_percent: float
    median_us: float
    p99_us: float
    batches: int


class LatencyModel:
    """Times of a batch on one kind of device: as measured where measured, by a law elsewhere.

    The law (`Form`) is fitted to all points. Each point's deviation from it, as a logarithm, is
    carried to its neighbourhood, and all is kept in a table over measured buckets and shares that
    never falls with rows nor rises with the share. Between its nodes time is linear in rows and in
    1/share, as the law is; beyond them the law's own increments are added.

    Immutable. Get one from `fit` or `from_json`.

    Attributes:
        buckets: Measured, ascending.
        shares_percent: Measured, ascending.
        form: The law.
        measurements: The points, each (bucket, share) once.
        padded: A batch takes as long as the next bucket's, since it is filled up to it.
        factor: What all times are multiplied by; 1: as measured.
    """

    def __init__(self, measurements: tuple[Measurement, ...], padded: bool, factor: float) -> None:
        self.measurements = measurements
        self.padded = padded
        self.factor = factor
        self.buckets = tuple(sorted({m.bucket for m in measurements}))
        self.shares_percent = tuple(sorted({m.share_percent for m in measurements}))
        self._inverse_shares = [1 / share for share in reversed(self.shares_percent)]
        medians = [m.median_us for m in measurements]
        self.form = Form.fit(
            [m.bucket for m in measurements], [m.share_percent for m in measurements], medians
        )
        self._tail = median(m.p99_us / m.median_us for m in measurements)
        self._medians = self._table(medians, 1.0)
        self._p99s = self._table([m.p99_us for m in measurements], self._tail)
        self._curves: dict[float, tuple[Curve, Curve, Curve]] = {}

    @classmethod
    def fit(cls, measurements: Sequence[Measurement], *, padded: bool = False) -> LatencyModel:
        """A model of these points; of two with the same bucket and share the later one counts.

        Args:
            measurements: At least one.
            padded: Batches are filled up to the next bucket.

        Raises:
            InvalidArgument: there is none, or one is impossible.
        """
        if not measurements:
            raise InvalidArgument("a latency model needs a measured point, and there is none")
        for m in measurements:
            sane = m.bucket >= 1 and 0 < m.share_percent <= 100 and m.batches >= 1
            if not (sane and 0 < m.median_us <= m.p99_us < float("inf")):
                raise InvalidArgument(f"no latency model can be made of {m}", hint="measure anew")
        latest = {(m.bucket, m.share_percent): m for m in measurements}
        return cls(tuple(latest[key] for key in sorted(latest)), padded, 1.0)

    def median_us(self, rows: float, share_percent: float) -> float:
        """Of a batch of so many rows; never falls with rows, never rises with the share."""
        return self.median_curve(share_percent).time_us(rows)

    def p99_us(self, rows: float, share_percent: float) -> float:
        """The same at the 99th percentile of batches; never below the median."""
        return self.p99_curve(share_percent).time_us(rows)

    def median_curve(self, share_percent: float) -> Curve:
        """Medians at one share; kept, so that to ask again is cheap."""
        return self._kept(share_percent)[0]

    def p99_curve(self, share_percent: float) -> Curve:
        """99th percentiles at one share."""
        return self._kept(share_percent)[1]

    def mean_curve(self, share_percent: float) -> Curve:
        """Means at one share: what capacity and corrections go by.

        Measured are medians and 99th percentiles. The mean of a log-normal time lies 2 to 6 % of
        the way from the one to the other while the tail is at most three medians long.
        """
        return self._kept(share_percent)[2]

    def knee_percent(self, rows: int) -> float:
        """The share above which more share buys little.

        It is where `rows / (time^2 * share)` is greatest within the measured shares: below it one
        percent more share saves more than half a percent of the time, above it less. That is how
        we remember D-STACK's efficacy; taken as a definition here, not as that paper's result.
        """
        low, high = self.shares_percent[0], self.shares_percent[-1]
        steps = np.geomspace(low, high, _KNEE_STEPS).tolist()
        # Of equals the smallest; nodes themselves, because that is where the curve bends.
        shares = sorted({*steps[1:-1], *self.shares_percent})
        knee: float = min(shares, key=lambda share: self.median_us(rows, share) ** 2 * share)
        return knee

    def scaled(self, factor: float) -> LatencyModel:
        """The same with all times multiplied: what live traffic says of the device as it is now."""
        if not 0 < factor < float("inf"):
            raise InvalidArgument(
                f"times cannot be multiplied by {factor}", hint="use a positive factor"
            )
        other = copy(self)
        other.factor = self.factor * factor
        other._curves = {}
        return other

    @cached_property
    def error_percent(self) -> float:
        """Median relative error where the model was not fitted to the point it predicts.

        With fewer points than the law has coefficients, of the law at its own points.
        """
        return 100 * median(abs(error) for error in left_out_errors(self.measurements).values())

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs: the points themselves, so that a later release fits them anew."""
        return {
            "measurements": [asdict(m) for m in self.measurements],
            "padded": self.padded,
            "factor": self.factor,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> LatencyModel:
        """The model that `to_json` described."""
        points = [Measurement(**point) for point in kept["measurements"]]
        return cls.fit(points, padded=kept["padded"]).scaled(kept["factor"])

    def _table(self, times_us: Sequence[float], tail: float) -> Array:
        """Times over (bucket, 1/share), ascending: the law, bent to the measured points."""
        nodes = [(b, 1 / x) for b in self.buckets for x in self._inverse_shares]
        points = [(m.bucket, m.share_percent) for m in self.measurements]
        law = np.array([tail * self.form.time_us(*point) for point in points])
        residuals = carried(np.log(np.array(times_us) / law), np.log(points), np.log(nodes))
        shape = (len(self.buckets), len(self._inverse_shares))
        known = np.full(shape, np.nan)
        for m, time_us in zip(self.measurements, times_us, strict=True):
            known[self.buckets.index(m.bucket), self._column(m.share_percent)] = time_us
        guess = np.array([tail * self.form.time_us(*node) for node in nodes]) * np.exp(residuals)
        return np.exp(completed(np.log(known), np.log(guess.reshape(shape))))

    def _column(self, share_percent: float) -> int:
        return len(self.shares_percent) - 1 - self.shares_percent.index(share_percent)

    def _kept(self, share_percent: float) -> tuple[Curve, Curve, Curve]:
        if share_percent not in self._curves:
            if len(self._curves) >= _CURVES_MAX:
                self._curves.clear()
            middle = self._make_curve(share_percent, tail=False)
            tail = self._make_curve(share_percent, tail=True)
            times = zip(middle.times_us, tail.times_us, strict=True)
            mean = replace(middle, times_us=tuple(m + _MEAN_PART * (t - m) for m, t in times))
            self._curves[share_percent] = (middle, tail, mean)
        return self._curves[share_percent]

    def _make_curve(self, share_percent: float, *, tail: bool) -> Curve:
        scale = self._tail if tail else 1.0
        table = self._p99s if tail else self._medians
        form, lowest = self.form, self.shares_percent[0]
        times = between(self._inverse_shares, table, 1 / share_percent).tolist()
        if share_percent < lowest:
            for i, bucket in enumerate(self.buckets):
                more_us = form.time_us(bucket, share_percent) - form.time_us(bucket, lowest)
                times[i] += scale * more_us
        share = min(share_percent, form.saturation_percent)
        row_us = scale * (form.row_us + form.row_work_us_percent / share)
        return Curve(
            self.buckets,
            tuple(self.factor * time_us for time_us in times),
            self.factor * row_us,
            self.padded,
        )


def left_out_errors(measurements: Sequence[Measurement]) -> dict[Measurement, float]:
    """For each point, how far it is from what the others predict, as a logarithm of the ratio.

    Points that the others do not surround are left out of the account where there are others: the
    model is not used beyond its corners.
    """
    if len(measurements) < _SUFFICIENT_POINTS:
        model = LatencyModel.fit(measurements)
        return {
            m: log(model.form.time_us(m.bucket, m.share_percent) / m.median_us)
            for m in measurements
        }
    inner = [m for m in measurements if _is_surrounded(m, measurements)] or measurements
    errors = {}
    for m in inner:
        others = LatencyModel.fit([other for other in measurements if other != m])
        errors[m] = log(others.median_us(m.bucket, m.share_percent) / m.median_us)
    return errors


def _is_surrounded(point: Measurement, all_points: Sequence[Measurement]) -> bool:
    """Whether it lies between others of its bucket, or of its share."""
    row = [m.share_percent for m in all_points if m.bucket == point.bucket]
    column = [m.bucket for m in all_points if m.share_percent == point.share_percent]
    return min(row) < point.share_percent < max(row) or min(column) < point.bucket < max(column)
