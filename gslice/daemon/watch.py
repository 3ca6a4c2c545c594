"""What live traffic says of one function: how much comes, and what its batches take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gslice.control.arrivals import SECOND_NS, ArrivalEstimator
from gslice.control.correction import LiveCorrection
from gslice.control.demand import Demand
from gslice.control.ladder import quantised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.control.latency import LatencyModel
    from gslice.core.types import FunctionSpec

_INTERVAL_NS = SECOND_NS  # between two looks at batches: one alone says little
_CORRECTION_STEPS = 8  # an octave: a model is scaled anew when it is off by 9 % more
_ROWS_WEIGHT = 0.3
_RATE_MIN_PER_S = 1.0  # whoever comes first after a rest must find a share that keeps the SLO


class Watch:
    """Follows the counters of one segment.

    Args:
        generation: The segment's.
    """

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self._arrivals = ArrivalEstimator()
        self._model: LatencyModel | None = None
        self._correction: LiveCorrection | None = None
        self._scaled: tuple[float, LatencyModel] | None = None
        self._rows_per_request = 1.0
        self._last: tuple[int, Mapping[str, Any]] | None = None

    def use(self, model: LatencyModel | None) -> None:
        """Goes by what was measured of its batches; None: nobody has measured them."""
        if model is not self._model:
            self._model, self._scaled = model, None
            self._correction = None if model is None else LiveCorrection(model)

    def observe(self, now_ns: int, counters: Mapping[str, Any], share_percent: float) -> None:
        """Takes what a segment has counted.

        Args:
            now_ns: When.
            counters: `Segment.demand()`.
            share_percent: One instance's effective share.
        """
        self._arrivals.observe(now_ns, counters["arrived"])
        if self._last is None:
            self._last = now_ns, counters
        elif now_ns - self._last[0] >= _INTERVAL_NS:
            self._learn(self._last[1], counters, share_percent)
            self._last = now_ns, counters

    def rate_per_s(self, now_ns: int) -> float:
        """Requests, as planned for; 0 while too little was seen."""
        arrivals = self._arrivals.estimate(now_ns)
        return arrivals.rate_per_s if arrivals else 0.0

    def demand(self, now_ns: int, spec: FunctionSpec, rows_max: int) -> Demand:
        """What the function needs, for the planner.

        Args:
            now_ns: When.
            spec: Of the function.
            rows_max: Its largest batch; 0: it is not batchable.
        """
        arrivals = self._arrivals.estimate(now_ns)
        model = self._model_now()
        return Demand(
            name=spec.name,
            rate_per_s=max(_RATE_MIN_PER_S, arrivals.rate_per_s if arrivals else 0.0),
            slo_us=spec.slo_p99_us,
            burstiness=arrivals.burstiness if arrivals else 1.0,
            rows_per_request=self._rows_per_request if rows_max else 1.0,
            rows_max=max(1, rows_max),
            instances=spec.instances,
            priority=spec.priority,
            bounds=spec.share,
            models={} if model is None else {spec.device: model},
            devices=(spec.device,),
        )

    def _learn(
        self, before: Mapping[str, Any], after: Mapping[str, Any], share_percent: float
    ) -> None:
        """From the batches between two looks."""
        answered = after["answered"] - before["answered"]
        rows = after["rows"] - before["rows"]
        if answered > 0 and rows > 0:
            self._rows_per_request += _ROWS_WEIGHT * (rows / answered - self._rows_per_request)
        batches = after["executions"] - before["executions"]
        if self._correction is None or share_percent <= 0:
            return
        ran = after["batch_rows"].astype(int) - before["batch_rows"].astype(int)
        sizes = {max(1, size): int(count) for size, count in enumerate(ran) if count > 0}
        busy_us = (after["compute_busy_ns"] - before["compute_busy_ns"]) / 1e3
        self._correction.observe(sizes, busy_us / max(1, batches), share_percent)

    def _model_now(self) -> LatencyModel | None:
        """The model as live batches correct it; the same object until they differ noticeably."""
        if self._model is None or self._correction is None:
            return None
        factor = self._correction.factor
        if self._scaled is None or abs(math.log2(factor / self._scaled[0])) > 1 / _CORRECTION_STEPS:
            factor = quantised(factor, _CORRECTION_STEPS)
            self._scaled = factor, self._model.scaled(factor)
        return self._scaled[1]
