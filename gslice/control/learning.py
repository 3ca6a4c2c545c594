"""A latency model that goes on learning: from live batches, at shares that nobody measured."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from gslice.control.correction import LiveCorrection
from gslice.control.latency import LatencyModel, Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NEAR = 0.1  # a share this close to a measured one is that one
_BATCHES_MIN = 50  # that make a point
_PART_MIN = 0.1  # of the batches: sizes that were rarer say nothing
_STEPS = 8  # an octave: the model is made anew when it is off by 9 % more
_WHOLE_PERCENT = 100.0


class Learner:
    """What a function's batches take, as measured and as seen since.

    At measured shares live batches correct the whole model by one factor, which is the neighbours'
    doing. At other shares they make new points. Above the largest share that is known the curve
    goes on as it went last, and by 1/share where only one is known: that is a guess, made in
    favour of more share, so that a function that is short gets it, and the truth is seen.

    Args:
        measured: To begin with.
    """

    def __init__(self, measured: LatencyModel) -> None:
        self.measured = measured
        self._live: dict[tuple[int, float], Measurement] = {}
        self._here: tuple[float, dict[int, int], float] | None = None
        self._step = 0  # by which the model that was last given out is scaled
        self._remake()

    def model(self) -> LatencyModel:
        """As it is known now; the same object for factors that do not differ noticeably."""
        step = math.log2(self._correction.factor) * _STEPS
        if abs(step - self._step) > 1:
            self._step = round(step)
        if self._step not in self._scaled:
            self._scaled[self._step] = self._guessing.scaled(2.0 ** (self._step / _STEPS))
        return self._scaled[self._step]

    def observe(
        self, batches_by_rows: Mapping[int, int], mean_us: float, share_percent: float
    ) -> None:
        """Takes an interval into account: as `LiveCorrection.observe`."""
        if self._is_known(share_percent):
            self._here = None
            self._correction.observe(batches_by_rows, mean_us, share_percent)
            return
        self._gather(batches_by_rows, mean_us, share_percent)
        assert self._here is not None
        share, sizes, busy_us = self._here
        if (count := sum(sizes.values())) >= _BATCHES_MIN:
            self._here = None
            self._add_points(share, sizes, busy_us / count)

    # ---- parts -----------------------------------------------------------------------------

    def _is_known(self, share_percent: float) -> bool:
        return any(_near(share_percent, known) for known in self._known.shares_percent)

    def _gather(
        self, batches_by_rows: Mapping[int, int], mean_us: float, share_percent: float
    ) -> None:
        if self._here is None or not _near(self._here[0], share_percent):
            self._here = share_percent, {}, 0.0
        share, sizes, busy_us = self._here
        for rows, count in batches_by_rows.items():
            sizes[rows] = sizes.get(rows, 0) + count
        self._here = share, sizes, busy_us + mean_us * sum(batches_by_rows.values())

    def _add_points(self, share_percent: float, sizes: Mapping[int, int], mean_us: float) -> None:
        """Of what ran at a new share; what the neighbours do is taken out."""
        curve, tail = self._guessing.mean_curve(share_percent), self._guessing
        count = sum(sizes.values())
        predicted_us = sum(n * curve.time_us(rows) for rows, n in sizes.items()) / count
        ratio = mean_us / predicted_us / self._correction.factor
        for rows, seen in sizes.items():
            if seen < _PART_MIN * count:
                continue
            median_us = ratio * tail.median_us(rows, share_percent)
            p99_us = max(median_us, ratio * tail.p99_us(rows, share_percent))
            point = Measurement(rows, share_percent, median_us, p99_us, seen)
            self._live[rows, share_percent] = point
        factor = self._correction.factor
        self._remake()
        self._correction.resume(factor)

    def _remake(self) -> None:
        points = [*self.measured.measurements, *self._live.values()]
        self._known = LatencyModel.fit(points, padded=self.measured.padded)
        self._guessing = LatencyModel.fit(
            [*points, *_beyond(self._known)], padded=self.measured.padded
        )
        self._correction = LiveCorrection(self._guessing)
        self._step, self._scaled = 0, {0: self._guessing}


def _near(one_percent: float, other_percent: float) -> bool:
    return abs(one_percent - other_percent) <= _NEAR * max(one_percent, other_percent)


def _beyond(known: LatencyModel) -> Sequence[Measurement]:
    """What batches may take on the whole device, if the curve goes on as it went last."""
    top = known.shares_percent[-1]
    if _near(top, _WHOLE_PERCENT):
        return []
    points = []
    for rows in known.buckets:
        times = [(share, known.median_us(rows, share)) for share in known.shares_percent]
        slopes = [
            math.log(before / after) / math.log(share / below)
            for (below, before), (share, after) in pairwise(times)
        ]
        slope = min(1.0, max(0.0, slopes[-1])) if slopes else 1.0
        faster = (top / _WHOLE_PERCENT) ** slope
        point = Measurement(rows, top, times[-1][1], known.p99_us(rows, top), 1)
        points.append(
            replace(
                point,
                share_percent=_WHOLE_PERCENT,
                median_us=point.median_us * faster,
                p99_us=point.p99_us * faster,
            )
        )
    return points
