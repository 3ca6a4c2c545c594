"""What each legal share of a device is worth to a function."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from gslice.control.queueing import capacity_per_s, predicted_p99_us
from gslice.control.waiting import Load, Prediction

if TYPE_CHECKING:
    from gslice.control.demand import Demand, DeviceShares
    from gslice.control.latency import LatencyModel
    from gslice.control.waiting import Wait

_ROWS_DIGITS = 2
_KEPT_EACH = 64
_FREE = 1.05  # of the time of the smallest batch
_NEEDS_MAX = 256  # rates hold still, and there are some multiples of each
_RISE = 1.005  # of capacity, for which more share is worth having


class Ladder:
    """The rungs are a device's legal shares; each is measured in requests a second within the SLO.

    A rung is computed when somebody asks for it. Capacity never falls from one rung to the next.

    Args:
        model: What batches take.
        demand: Whose: its instances, batches and bounds.
        slo_us: What to plan for; inf: any latency.
        device: Whose legal shares.
    """

    def __init__(
        self, model: LatencyModel, demand: Demand, slo_us: float, device: DeviceShares
    ) -> None:
        self._model = model
        self._slo_us = slo_us
        self._instances = demand.instances
        self._rows_max = demand.rows_max
        self._rows = _rounded(demand.rows_per_request)
        self._capacity: dict[int, tuple[float, int]] = {}
        self._need: dict[float, float | None] = {}
        top = min(demand.bounds.max_percent, device.limit_percent)
        count = max(1, math.floor(top / device.step_percent + 1e-9))
        self.shares_percent = tuple(device.step_percent * (i + 1) for i in range(count))

    def capacity_per_s(self, share_percent: float) -> float:
        """Requests a second that a share serves within the SLO; 0: it can not keep it at all."""
        return self._at(self._rung(share_percent))[0]

    def batch_rows_max(self, share_percent: float) -> int:
        """The largest batch with which it does."""
        return self._at(self._rung(share_percent))[1]

    def full_rows_max(self, share_percent: float, within_us: float) -> int:
        """The largest batch that is in time even where all are full: one under way, then it.

        It is the rule of gpulet (saturated: 2 L(b) <= SLO). Larger ones serve more while they are
        not full, and make everybody late once they are. Rows that cost nothing are always welcome.
        """
        curve = self._model.p99_curve(share_percent / self._instances)
        return self._rows_within(share_percent, max(within_us / 2, _FREE * curve.time_us(1)))

    def rows_after_one(self, share_percent: float, within_us: float) -> int:
        """The largest batch that is in time after a smallest one."""
        one_us = self._model.p99_curve(share_percent / self._instances).time_us(1)
        return self._rows_within(share_percent, max(within_us - one_us, _FREE * one_us))

    def _rows_within(self, share_percent: float, batch_us: float) -> int:
        curve = self._model.p99_curve(share_percent / self._instances)
        sizes = self._model.buckets if self._model.padded else range(1, self._rows_max + 1)
        allowed = [rows for rows in sizes if rows <= self._rows_max]
        fitting = bisect_right(allowed, batch_us, key=curve.time_us)
        return allowed[max(0, fitting - 1)] if allowed else self._rows_max

    def enough_percent(self, faster: float) -> float:
        """The smallest share above which no other makes a batch of two requests faster by that."""
        rows = min(2 * self._rows, self._rows_max)
        shares = self.shares_percent

        def time_us(share_percent: float) -> float:
            return self._model.p99_curve(share_percent / self._instances).time_us(rows)

        enough_us = faster * time_us(shares[-1])
        return shares[bisect_left(shares, True, key=lambda share: time_us(share) <= enough_us)]

    def need_percent(self, rate_per_s: float) -> float | None:
        """The smallest legal share that serves a rate; None: not even the largest does."""
        if rate_per_s not in self._need:
            if len(self._need) >= _NEEDS_MAX:
                self._need.clear()
            rungs = range(len(self.shares_percent))
            rung = bisect_left(rungs, rate_per_s, key=lambda i: self._at(i)[0])
            fits = rung < len(self.shares_percent)
            self._need[rate_per_s] = self.shares_percent[rung] if fits else None
        return self._need[rate_per_s]

    @cached_property
    def most(self) -> tuple[float, float]:
        """The highest capacity, and the smallest share that has it."""
        best = self._at(len(self.shares_percent) - 1)[0]
        return best, self.need_percent(best / _RISE) or self.shares_percent[-1]

    def next_better(self, share_percent: float) -> float | None:
        """The next larger share that serves more; None: there is none."""
        return self.need_percent(max(self.capacity_per_s(share_percent) * _RISE, 1e-9))

    def prediction(
        self, share_percent: float, rows_max: int, rate_per_s: float, turn: Wait
    ) -> Prediction:
        """Latency at a rate where each batch waits for its turn."""
        load = Load(rate_per_s, self._instances, self._rows)
        share = share_percent / self._instances
        return Prediction(self._model, share, rows_max, load, turn)

    def predicted_p99_us(self, share_percent: float, rate_per_s: float) -> float:
        """Latency at a rate, with the batches that this share is for."""
        return predicted_p99_us(
            self._model,
            share_percent / self._instances,
            self.batch_rows_max(share_percent) or self._rows_max,
            self._instances,
            rate_per_s,
            rows_per_request=self._rows,
        )

    def _rung(self, share_percent: float) -> int:
        """The highest rung that is not above a share; the lowest for what is below all."""
        step = self.shares_percent[0]
        return min(max(math.floor(share_percent / step + 1e-9), 1), len(self.shares_percent)) - 1

    def _at(self, rung: int) -> tuple[float, int]:
        if rung not in self._capacity:
            self._capacity[rung] = capacity_per_s(
                self._model,
                self.shares_percent[rung] / self._instances,
                self._instances,
                self._slo_us,
                rows_max=self._rows_max,
                rows_per_request=self._rows,
            )
        return self._capacity[rung]


@lru_cache(maxsize=1024)
def _rounded(rows_per_request: float) -> float:
    return float(f"{rows_per_request:.{_ROWS_DIGITS}g}")


class Ladders:
    """Keeps ladders: what they were made from often comes back, when neighbours come and go."""

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[tuple[object, ...], Ladder]] = {}

    def of(self, demand: Demand, device: DeviceShares, margin: float) -> Ladder | None:
        """The ladder of a function on a device; None: nobody has measured it there.

        Args:
            demand: The function.
            device: The device.
            margin: Part of the SLO that is kept free.
        """
        model = demand.models.get(device.name)
        if model is None:
            return None
        slo_us = demand.slo_us * (1.0 - margin) or math.inf
        key = (
            *(model, slo_us, demand.instances, demand.rows_max),
            *(device.limit_percent, device.step_percent),
            demand.bounds.max_percent,
            _rounded(demand.rows_per_request),
        )
        kept = self._kept.setdefault(demand.name, OrderedDict())
        if key not in kept:
            kept[key] = Ladder(model, demand, slo_us, device)
            if len(kept) > _KEPT_EACH:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]
