"""Why a function gets what it gets, in a line; computed when somebody wants to read it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gslice.control.demand import Allotment

_ALL = 0.999  # of the requests that a share serves: less is overload


def predicted_p99_us(allotment: Allotment) -> float:
    """Latency of the requests that are accepted; inf: nobody can say."""
    part = allotment.part
    if part is None or part.ladder is None:
        return math.inf
    rate = min(allotment.rate_per_s, allotment.capacity_per_s) / allotment.replicas
    if allotment.turn is not None:
        share, rows_max = allotment.share_percent, allotment.batch_rows_max
        return part.ladder.prediction(share, rows_max, rate, allotment.turn).percentile_us(0.99)
    return part.ladder.predicted_p99_us(allotment.share_percent, rate)


def reason(allotment: Allotment) -> str:
    """One line."""
    each = "each of " if allotment.replicas > 1 else ""
    part, share = allotment.part, f"{allotment.share_percent:g}% of {each}{allotment.device}"
    if part is None:
        return share
    demand = part.demand
    if demand.exclusive:
        share = f"{share}, to itself"
    elif demand.pinned:
        share = f"pinned to {share}"
    if allotment.turns:
        share = f"{share} in turns"
    if not demand.slo_us and demand.exclusive:
        return f"{share}: no SLO"
    if not demand.slo_us:
        return f"{share}: no SLO, so it has what the others leave"
    if part.ladder is None:
        return f"{share}: not profiled yet"
    if not part.promised:
        return f"{share}: {demand.slo_us / 1000:g} ms is out of its reach there"
    promise = f"{demand.rate_per_s:.0f} requests/s within {demand.slo_us / 1000:g} ms"
    if allotment.capacity_per_s < _ALL * demand.rate_per_s:
        served = allotment.capacity_per_s / demand.rate_per_s
        text = f"{share}: overload, serves {served:.0%} of {promise}"
        quota = demand.quota
        return f"{text}; tenant {quota.tenant} may have {quota.percent:g}%" if quota else text
    text = f"{share}: {promise}, predicted p99 {predicted_p99_us(allotment) / 1000:.3g} ms"
    if allotment.capacity_per_s < demand.busiest_per_s:
        text += f"; peaks of {demand.busiest_per_s:.0f} requests/s are too much"
    return text
