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
    """What a request takes at the percentile, from arrival to answer: see `Prediction`.

    Returns:
        `math.inf` if more arrives than is served.
    """
    load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
    return Prediction(model, share_percent, batch_rows_max, load).percentile_us(percentile)


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
    limit = _limit_that_meets(model, share_percent, load, slo_us, percentile, rows_max)
    if limit is not None:
        return limit
    predictions = _predictions(model, share_percent, load, rows_max)
    stable = [limit for limit, prediction in predictions.items() if prediction.is_stable]
    if not stable:
        return max(predictions, key=lambda b: predictions[b].capacity_per_s)
    return min(stable, key=lambda b: predictions[b].percentile_us(percentile))


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
    load = Load(rate_per_s, instances, rows_per_request, burstiness, delay_us)
    legal = sorted(shares)
    low, high = 0, len(legal)
    found = None
    while low < high:
        middle = (low + high) // 2
        limit = _limit_that_meets(model, legal[middle], load, slo_us, percentile, rows_max)
        if limit is not None:
            found, high = (legal[middle], limit), middle
        else:
            low = middle + 1
    return found


@lru_cache(maxsize=_KEPT)
def _limit_that_meets(
    model: LatencyModel,
    share_percent: float,
    load: Load,
    slo_us: float,
    percentile: float,
    rows_max: int,
) -> int | None:
    """Of the batch limits that meet the SLO, the one that could serve most."""
    predictions = _predictions(model, share_percent, load, rows_max)
    by_capacity = sorted(predictions, key=lambda b: predictions[b].capacity_per_s, reverse=True)
    meeting = (b for b in by_capacity if predictions[b].late(slo_us) <= 1 - percentile)
    return next(meeting, None)


def _predictions(
    model: LatencyModel, share_percent: float, load: Load, rows_max: int
) -> dict[int, Prediction]:
    limits = _limits(model, load.rows_per_request, rows_max)
    return {limit: Prediction(model, share_percent, limit, load) for limit in limits}


def _limits(model: LatencyModel, rows_per_request: float, rows_max: int) -> list[int]:
    """Batch limits that are worth a thought: buckets that hold a request and are allowed."""
    allowed = [b for b in model.buckets if not rows_max or b <= rows_max] or [model.buckets[0]]
    return [b for b in allowed if b >= rows_per_request] or [allowed[-1]]
