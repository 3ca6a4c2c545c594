"""What live traffic says of one function: how much comes, and what its batches take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.control.arrivals import SECOND_NS, ArrivalEstimator
from gslice.control.demand import Demand
from gslice.control.learning import Learner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.control.latency import LatencyModel
    from gslice.core.access import ShareQuota
    from gslice.core.types import FunctionSpec

LOOK_PERIOD_S = 0.5
_INTERVAL_NS = SECOND_NS  # between two looks at batches: one alone says little
_ROWS_WEIGHT = 0.3


class Watch:
    """Follows the counters of a function's segments, one after the other."""

    def __init__(self) -> None:
        self._arrivals = ArrivalEstimator()
        self._learner: Learner | None = None
        self._rows_per_request = 1.0
        self._segment = 0  # its generation
        self._share_percent = 0.0
        self._last: tuple[int, Mapping[str, Any]] | None = None
        self._demand: tuple[object, Demand] | None = None

    def use(self, measured: LatencyModel | None) -> None:
        """Goes by what was measured of its batches; None: nobody has measured them."""
        known = self._learner.measured if self._learner else None
        if measured is not known:
            self._learner = None if measured is None else Learner(measured)

    def live(self, measured: LatencyModel | None) -> LatencyModel | None:
        """What a measured model has become since, if it is the one that batches correct."""
        learner = self._learner
        known = learner is not None and learner.measured is measured
        return learner.model() if learner is not None and known else measured

    def observe(
        self, now_ns: int, segment: int, counters: Mapping[str, Any], share_percent: float
    ) -> None:
        """Takes what a segment has counted.

        Args:
            now_ns: When.
            segment: Its generation.
            counters: `Segment.demand()`.
            share_percent: One instance's effective share.
        """
        self._arrivals.observe(now_ns, counters["arrived"])
        same = (segment, share_percent) == (self._segment, self._share_percent)
        if self._last is None or not same:  # batches of two shares say nothing of either
            self._last = now_ns, counters
            self._segment, self._share_percent = segment, share_percent
        elif now_ns - self._last[0] >= _INTERVAL_NS:
            self._learn(self._last[1], counters, share_percent)
            self._last = now_ns, counters

    def knows(self, now_ns: int) -> bool:
        """Whether it has watched long enough to know a rate."""
        return self._arrivals.estimate(now_ns) is not None

    def demand(
        self,
        now_ns: int,
        spec: FunctionSpec,
        measured: LatencyModel | None,
        rows_max: int,
        quota: ShareQuota | None = None,
    ) -> Demand:
        """What the function needs, for the planner; the same object while nothing changes.

        Args:
            now_ns: When.
            spec: Of the function.
            measured: What its batches take on its device, as measured; None: nobody has.
            rows_max: Its largest batch; 0: it is not batchable.
            quota: Of its tenant, for which its share counts.
        """
        arrivals = self._arrivals.estimate(now_ns)
        model = self.live(measured)
        rates = (arrivals.rate_per_s, arrivals.peak_per_s) if arrivals else (0.0, 0.0)
        asked = rates, model, spec, rows_max, self._rows_per_request, quota
        if self._demand is None or self._demand[0] != asked:
            self._demand = asked, self._new_demand(*asked)
        return self._demand[1]

    def _new_demand(
        self,
        rates_per_s: tuple[float, float],
        model: LatencyModel | None,
        spec: FunctionSpec,
        rows_max: int,
        rows_per_request: float,
        quota: ShareQuota | None,
    ) -> Demand:
        return Demand(
            name=spec.name,
            rate_per_s=rates_per_s[0],
            slo_us=spec.slo_p99_us,
            peak_per_s=rates_per_s[1],
            rows_per_request=rows_per_request if rows_max else 1.0,
            rows_max=max(1, rows_max),
            instances=spec.instances,
            priority=spec.priority,
            exclusive=spec.exclusive,
            bounds=spec.share,
            models={} if model is None else dict.fromkeys(spec.placed, model),
            devices=spec.placed,
            replicas_min=len(spec.placed),
            replicas_max=len(spec.placed),
            quota=quota,
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
        if self._learner is None or share_percent <= 0:
            return
        ran = after["batch_rows"] - before["batch_rows"]
        rows_of = ran.nonzero()[0]
        sizes = dict(zip(rows_of.tolist(), ran[rows_of].tolist(), strict=True))
        busy_us = (after["compute_busy_ns"] - before["compute_busy_ns"]) / 1e3
        self._learner.observe(sizes, busy_us / max(1, batches), share_percent)
