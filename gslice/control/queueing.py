"""What latency a load gets, and what load a latency allows.

All functions take the load as `Load` does: requests a second, rows a request, index of dispersion,
and the delay of batches in us. `rows_max` bounds the batch limit; 0: the largest bucket does.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from gslice.control.waiting import Load, Prediction

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.control.latency import LatencyModel

_RATE_STEP = 0.005
_CLOSING = 0.9  # of the step
_LATE_MIN = 1e-6


def predicted_p99_us(
    model: LatencyModel,
    share_percent: float,
    batch_rows_max: int,
    instances: int,
    rate_per_s: float,
    rows_per_request: float = 1.0,
    burstiness: float = 1.0,
    delay_us: float = 0.0,
    percentile: float = 0.99,
) -> float:
    """What a request takes at the percentile, from arrival to answer: see `Prediction`.

    Returns:
        `math.inf` if more arrives than is served.
    """
    load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
    return Prediction(model, share_percent, batch_rows_max, load).percentile_us(percentile)


def capacity_per_s(
    model: LatencyModel,
    share_percent: float,
    instances: int,
    slo_us: float,
    rows_per_request: float = 1.0,
    burstiness: float = 1.0,
    delay_us: float = 0.0,
    percentile: float = 0.99,
    rows_max: int = 0,
) -> tuple[float, int]:
    """The highest rate that meets the SLO, to half a percent, and the batch limit for it.

    Returns:
        Rate 0 if the SLO cannot be met at any.
    """

    def excess(prediction: Prediction) -> float:
        return log(max(prediction.late(slo_us), _LATE_MIN) / (1 - percentile))

    best = (0.0, _limits(model, rows_per_request, rows_max)[0])
    for limit in reversed(_limits(model, rows_per_request, rows_max)):

        def predicted(rate_per_s: float, limit: int = limit) -> Prediction:
            load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
            return Prediction(model, share_percent, limit, load)

        low = best[0] * (1 + _RATE_STEP)
        first = predicted(low)
        # Most limits do not even reach what another one does.
        if first.capacity_per_s > low and (least := excess(first)) <= 0:
            high = first.capacity_per_s, -log(1 - percentile)
            best = _highest_rate(lambda r: excess(predicted(r)), (low, least), high), limit
    return best


def _highest_rate(
    excess: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]
) -> float:
    """The highest rate without excess, to half a percent.

    Regula falsi in the way of Illinois (Dowell and Jarratt, 1971): an end that stays counts half.
    Each time is dear, and there are fewer than by halving; steps end beside an end of the bracket,
    not at it, so that the last one closes it.

    Args:
        excess: Rises with the rate.
        low: A rate, and its excess, which is not above zero.
        high: Likewise, above zero.
    """
    (below, under), (above, over), kept = low, high, 0
    while (tolerance := _RATE_STEP * above) < above - below:
        step = (above - below) * under / (under - over)
        close = _CLOSING * tolerance
        rate = below + min(max(step, close), above - below - close)
        if (found := excess(rate)) <= 0:
            below, under = rate, found
            over, kept = (over / 2 if kept < 0 else over), -1
        else:
            above, over = rate, found
            under, kept = (under / 2 if kept > 0 else under), 1
    return below


def _limits(model: LatencyModel, rows_per_request: float, rows_max: int) -> list[int]:
    """Batch limits that are worth a thought: measured sizes that are allowed and hold a request.

    Above the largest that was measured come its doublings: a quick profile knows the smallest
    sizes only, which must not become the limit.
    """
    sizes = list(model.buckets)
    while 2 * sizes[-1] < rows_max:
        sizes.append(2 * sizes[-1])
    if rows_max > sizes[-1]:
        sizes.append(rows_max)
    allowed = [b for b in sizes if not rows_max or b <= rows_max] or sizes[:1]
    return [b for b in allowed if b >= rows_per_request] or [allowed[-1]]
