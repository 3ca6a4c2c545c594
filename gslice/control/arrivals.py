"""How many requests arrive, and how unevenly, from a counter that is read now and then."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from math import copysign, log, sqrt
from typing import NamedTuple

SECOND_NS = 1_000_000_000

_WINDOW_NS = 30 * SECOND_NS
_SETTLING_NS = 3 * SECOND_NS
_SIGNIFICANT = 4.75
_LOOKS_BACK = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_DEAD_BAND = 0.05
_DISPERSION_BAND = 0.1
_REVERSALS = 2
_PRIOR_INTERVALS = 8.0
_PEAK_NS = SECOND_NS // 2
_PEAK_WINDOW_NS = 100 * SECOND_NS  # half a second at twice the rate is 1 % of its requests
_PEAK_DEVIATIONS = 2.5  # about the largest of a window's sixty Poisson counts


@dataclass(frozen=True)
class Arrivals:
    """What to plan for.

    Attributes:
        rate_per_s: Of requests.
        burstiness: Index of dispersion of counts: their variance over their mean. 1: Poisson,
            which is also the least that is planned for.
        peak_per_s: The rate when most came in the last 100 s, over half a second; the rate itself
            where that is no more than chance. A promise for 99 % is not kept without it, though
            the load has changed since: what came once may come again.
    """

    rate_per_s: float
    burstiness: float
    peak_per_s: float


class _Sums(NamedTuple):
    """Sums over all intervals up to a reading; a difference of two is about those between."""

    at_ns: int
    intervals: int
    seen_ns: int
    arrived: int
    squares: float


class _Peak(NamedTuple):
    at_ns: int
    rate_per_s: float


class _Jump(NamedTuple):
    after: _Sums
    upwards: bool


class ArrivalEstimator:
    """Follows one function's arrivals over the last 30 s.

    The rate is that since the last change of load. A change is where the counts after some moment
    differ from those before it by 4.5 standard deviations: a generalized likelihood ratio test
    over all moments (Lai, 1995, "Sequential changepoint detection"), for Poisson counts by the
    root of their deviance, widened by the burstiness. So a step of the load is followed as soon as
    it is certain, and chance is averaged out. A drift of less than 5 %, or
    than one standard deviation of the mean, is not told.

    Load that goes up, down and up again within 30 s does not change, it is uneven: the changes are
    then forgotten, the rate is that of all 30 s, and burstiness says the rest.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._readings: deque[_Sums] = deque()
        self._jumps: deque[_Jump] = deque()
        self._peaks: deque[_Peak] = deque()  # each lower than all before it
        self._rate_per_s = 0.0
        self._burstiness = 1.0
        self._calm_burstiness = 1.0

    def observe(self, now_ns: int, arrived: int) -> None:
        """Takes a reading into account.

        Args:
            now_ns: When, on a clock that never goes back.
            arrived: Requests since the counter began. Less than before: it began anew, and what
                came meanwhile is not known.
        """
        if self._last is None or arrived < self._last[1]:
            self._last = (now_ns, arrived)
            if not self._readings:
                self._readings.append(_Sums(now_ns, 0, 0, 0, 0.0))
            return
        seen_ns, new = now_ns - self._last[0], arrived - self._last[1]
        if seen_ns <= 0:
            return
        self._last = (now_ns, arrived)
        _, intervals, seen_before_ns, arrived_before, squares = self._readings[-1]
        self._readings.append(
            _Sums(
                now_ns,
                intervals + 1,
                seen_before_ns + seen_ns,
                arrived_before + new,
                squares + new * new / seen_ns,
            )
        )
        self._forget(now_ns)
        self._look_for_a_jump()
        self._update()
        self._note_peak()

    def estimate(self, now_ns: int) -> Arrivals | None:
        """What to plan for; None: less than a second was seen of the last 30."""
        if not self._readings or self._readings[-1].at_ns < now_ns - _WINDOW_NS:
            return None
        if self._readings[-1].seen_ns - self._readings[0].seen_ns < SECOND_NS:
            return None
        peak = max(self._rate_per_s, self._peaks[0].rate_per_s if self._peaks else 0.0)
        return Arrivals(self._rate_per_s, self._burstiness, peak)

    def _forget(self, now_ns: int) -> None:
        while self._readings[0].at_ns < now_ns - _WINDOW_NS:
            self._readings.popleft()
        while self._jumps and self._jumps[0].after.at_ns < now_ns - _WINDOW_NS:
            self._jumps.popleft()
        while self._peaks and self._peaks[0].at_ns < now_ns - _PEAK_WINDOW_NS:
            self._peaks.popleft()

    def _note_peak(self) -> None:
        """The rate of the last half second, less what chance may have added."""
        end = self._readings[-1]
        start = next((r for r in reversed(self._readings) if r.at_ns <= end.at_ns - _PEAK_NS), None)
        if start is None or end.seen_ns <= start.seen_ns:
            return
        arrived, seen_ns = end.arrived - start.arrived, end.seen_ns - start.seen_ns
        rate = (arrived - _PEAK_DEVIATIONS * sqrt(arrived)) / seen_ns * SECOND_NS
        while self._peaks and self._peaks[-1].rate_per_s <= rate:
            self._peaks.pop()
        self._peaks.append(_Peak(end.at_ns, rate))

    def _steady_since(self) -> _Sums:
        """From when on one rate is taken to explain what was seen."""
        turns = sum(one.upwards != other.upwards for one, other in pairwise(self._jumps))
        if not self._jumps or turns >= _REVERSALS:
            return self._readings[0]
        return self._jumps[-1].after

    def _look_for_a_jump(self) -> None:
        start, end = self._steady_since(), self._readings[-1]
        best, score = end, 0.0
        seen_ns, arrived = end.seen_ns - start.seen_ns, end.arrived - start.arrived
        # The deviance is at most twice Pearson's chi-squared, which takes no logarithm.
        enough = _SIGNIFICANT**2 * self._burstiness * arrived / 2
        readings, start_ns, end_ns = self._readings, start.at_ns, end.seen_ns
        for back in _LOOKS_BACK:
            if back >= len(readings):
                break
            moment = readings[-1 - back]
            at_ns, _, seen_by_then_ns, arrived_by_then, _ = moment
            if at_ns <= start_ns:
                break
            part = (end_ns - seen_by_then_ns) / seen_ns if seen_ns else 0.0
            off = end.arrived - arrived_by_then - arrived * part
            if off * off <= enough * part * (1 - part):
                continue
            rise = _rise(start, moment, end)
            if abs(rise) > abs(score):
                best, score = moment, rise
        score /= sqrt(self._burstiness)
        if abs(score) > _SIGNIFICANT:
            self._calm_burstiness = self._burstiness
            self._jumps.append(_Jump(best, score > 0))

    def _update(self) -> None:
        start, end = self._steady_since(), self._readings[-1]
        arrived, seen_ns = end.arrived - start.arrived, end.seen_ns - start.seen_ns
        rate = arrived / seen_ns * SECOND_NS
        band = 0.0
        if seen_ns > _SETTLING_NS and arrived:
            band = max(_DEAD_BAND, sqrt(self._burstiness / arrived))
        if abs(rate - self._rate_per_s) > band * self._rate_per_s:
            self._rate_per_s = rate
        if arrived:
            # Sum of (count - expected)^2 / expected.
            deviations = (end.squares - start.squares) * seen_ns / arrived - arrived
            # Before there is much evidence after a change: as it was before.
            known = _PRIOR_INTERVALS * self._calm_burstiness
            intervals = _PRIOR_INTERVALS + end.intervals - start.intervals
            dispersion = max(1.0, (known + deviations) / intervals)
            if abs(dispersion - self._burstiness) > _DISPERSION_BAND * self._burstiness:
                self._burstiness = dispersion


def _rise(start: _Sums, moment: _Sums, end: _Sums) -> float:
    """By how many standard deviations of a Poisson process the rate is higher after a moment."""
    before, after = moment.arrived - start.arrived, end.arrived - moment.arrived
    before_ns, after_ns = moment.seen_ns - start.seen_ns, end.seen_ns - moment.seen_ns
    both = before + after
    if not both:
        return 0.0
    share = before_ns / (before_ns + after_ns)
    gain = (before * log(before / (both * share)) if before else 0.0) + (
        after * log(after / (both * (1 - share))) if after else 0.0
    )
    return copysign(sqrt(max(0.0, 2 * gain)), after * before_ns - before * after_ns)
