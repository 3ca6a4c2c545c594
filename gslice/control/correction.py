"""How far live batches are from what the model says, so that it can be scaled."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.control.latency import LatencyModel

_BATCHES_MIN = 10
_BATCHES_FULL = 50
_WEIGHT = 0.3
_STEP_MAX = log(4)
_FORGETTING = 0.98


class LiveCorrection:
    """Observed over predicted, smoothed: what `LatencyModel.scaled` wants.

    Ratios are averaged as logarithms, so that twice as slow and twice as fast cancel. An interval
    of few batches says little and is passed over; one of many counts 0.3, so a lasting change is
    followed to nine tenths in seven intervals. No interval counts as more than a factor of 4: a
    stall is not a slower device. Where nothing runs the factor is slowly forgotten, by half in 34
    intervals: what slowed batches down may be gone, and nobody would notice.

    Args:
        model: As it was measured. What it predicts is not what was corrected, so the factor stands
            for itself.
    """

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._log_factor = 0.0

    def resume(self, factor: float) -> None:
        """Goes on from what was known of another model of the same function."""
        self._log_factor = log(factor)

    @property
    def factor(self) -> float:
        """Observed over predicted; 1 before there is evidence."""
        return exp(self._log_factor)

    def observe(
        self, batches_by_rows: Mapping[int, int], mean_us: float, share_percent: float
    ) -> None:
        """Takes an interval into account.

        Args:
            batches_by_rows: How many batches of each size ran in it.
            mean_us: What they took, on average.
            share_percent: One instance's share meanwhile.
        """
        batches = sum(batches_by_rows.values())
        if batches < _BATCHES_MIN or mean_us <= 0:
            self._log_factor *= _FORGETTING
            return
        curve = self._model.mean_curve(share_percent)
        predicted_us = sum(n * curve.time_us(rows) for rows, n in batches_by_rows.items()) / batches
        step = log(mean_us) - log(predicted_us) - self._log_factor
        weight = _WEIGHT * min(1.0, batches / _BATCHES_FULL)
        self._log_factor += weight * max(-_STEP_MAX, min(step, _STEP_MAX))
