"""What latency a load gets, and what load a latency allows.

All functions take the load as `Load` does: requests a second, rows a request, index of dispersion,
and the delay of batches in us. `rows_max` bounds the batch limit; 0: the largest bucket does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.waiting import Load, Prediction

if TYPE_CHECKING:
    from gslice.control.latency import LatencyModel

_RATE_STEP = 0.005


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
    best = (0.0, _limits(model, rows_per_request, rows_max)[0])
    for limit in reversed(_limits(model, rows_per_request, rows_max)):

        def meets(rate_per_s: float, limit: int = limit) -> bool:
            load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
            late = Prediction(model, share_percent, limit, load).late(slo_us)
            return late <= 1 - percentile

        empty = Prediction(model, share_percent, limit, Load(0.0, instances, rows_per_request))
        low, high = best[0], empty.capacity_per_s
        # Most limits do not even reach what another one does.
        if high <= low or not meets(low * (1 + _RATE_STEP)):
            continue
        while high - low > _RATE_STEP * high:
            middle = (low + high) / 2
            low, high = (middle, high) if meets(middle) else (low, middle)
        best = (low, limit)
    return best


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
