"""What latency a load gets, what load a latency allows, and the share and batch limit for both.

All functions take the load as `Load` does: requests a second, rows a request, index of dispersion,
and the delay of batches in us. `rows_max` bounds the batch limit below the largest bucket.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from gslice.control.waiting import Load, Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.control.latency import LatencyModel

_KEPT = 8192
_RATE_STEP = 0.005


@lru_cache(maxsize=_KEPT)
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
    """What a request takes at the percentile, from arrival to answer, as `Prediction` has it.

    Returns:
        `math.inf` if more arrives than is served.
    """
    load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
    return Prediction(model, share_percent, batch_rows_max, load).percentile_us(percentile)


@lru_cache(maxsize=_KEPT)
def best_batch(
    model: LatencyModel,
    share_percent: float,
    instances: int,
    rate_per_s: float,
    slo_us: float = 0.0,
    rows_per_request: float = 1.0,
    burstiness: float = 1.0,
    delay_us: float = 0.0,
    percentile: float = 0.99,
    rows_max: int = 0,
) -> int:
    """The batch limit, one of the model's buckets.

    Of those that meet the SLO, the one that could serve most, as room for a burst. If none does,
    or there is no SLO (0), the one with the least predicted latency; if none keeps up, the one
    that serves most.
    """
    load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
    choices = _limits(model, rows_per_request, rows_max)
    predictions = {b: Prediction(model, share_percent, b, load) for b in choices}
    meeting = [b for b, p in predictions.items() if p.late(slo_us) <= 1 - percentile]
    stable = [b for b, p in predictions.items() if p.is_stable]
    if stable and not meeting:
        return min(stable, key=lambda b: predictions[b].percentile_us(percentile))
    return max(meeting or choices, key=lambda b: predictions[b].capacity_per_s)


@lru_cache(maxsize=_KEPT)
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


def least_share(
    model: LatencyModel,
    instances: int,
    rate_per_s: float,
    slo_us: float,
    shares: Sequence[float],
    rows_per_request: float = 1.0,
    burstiness: float = 1.0,
    delay_us: float = 0.0,
    percentile: float = 0.99,
    rows_max: int = 0,
) -> tuple[float, int] | None:
    """The smallest of these shares, of one instance, that meets the SLO, and its batch limit.

    Returns:
        None if not even the largest does.
    """
    legal = sorted(shares)
    low, high = 0, len(legal)
    found = None
    while low < high:
        middle = (low + high) // 2
        limit = best_batch(
            model,
            legal[middle],
            instances,
            rate_per_s,
            slo_us,
            rows_per_request,
            burstiness,
            delay_us,
            percentile,
            rows_max,
        )
        load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
        if Prediction(model, legal[middle], limit, load).late(slo_us) <= 1 - percentile:
            found, high = (legal[middle], limit), middle
        else:
            low = middle + 1
    return found


def _limits(model: LatencyModel, rows_per_request: float, rows_max: int) -> list[int]:
    """Batch limits that are worth a thought: buckets that hold a request and are allowed."""
    allowed = [b for b in model.buckets if not rows_max or b <= rows_max] or [model.buckets[0]]
    return [b for b in allowed if b >= rows_per_request] or [allowed[-1]]
