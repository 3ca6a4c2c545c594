"""How one device is divided: who needs what first, then where the rest buys most.

Shares are handed out in the device's steps. Pinned shares and everybody's minimum come first; then
SLOs, by priority. Where a priority cannot have all it needs, its functions get shares that serve
the same part of each one's requests: max-min fairness of what is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from gslice.control.demand import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.control.demand import Demand, DeviceShares, Policy
    from gslice.control.ladder import Ladder

_HALVINGS = 12
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Part:
    """What somebody needs of a device.

    Attributes:
        demand: The function, with the rate that comes to this device.
        ladder: What shares are worth to it; None: nobody has measured it.
    """

    demand: Demand
    ladder: Ladder | None

    @cached_property
    def promised(self) -> bool:
        """Whether an SLO is to be kept of which it is known how."""
        return self.demand.slo_us > 0 and self.ladder is not None and self.ladder.most[0] > 0

    def floor_percent(self, device: DeviceShares) -> float:
        """The least that it may have."""
        if self.demand.exclusive:
            return device.limit_percent
        if self.demand.pinned:
            return self.demand.bounds.min_percent
        step = device.step_percent
        return math.ceil(self.demand.bounds.min_percent / step - _ROUNDING) * step

    def need_percent(self, rate_per_s: float) -> float:
        """The least share that serves a rate within the SLO, or the one that serves most."""
        if not self.promised or self.ladder is None:
            return 0.0
        need = self.ladder.need_percent(rate_per_s) if rate_per_s > 0 else 0.0
        return self.ladder.most[1] if need is None else need

    def headroom(self, share_percent: float) -> float:
        """How many times its rate at its peak a share serves."""
        assert self.ladder is not None
        return self.ladder.capacity_per_s(share_percent) / self.demand.busiest_per_s


def divide(parts: Sequence[Part], device: DeviceShares, policy: Policy) -> dict[str, float]:
    """The share of every function on a device, in percent.

    Args:
        parts: Who is on the device.
        device: What there is to divide.
        policy: How careful to be.

    Returns:
        By name. The sum passes the limit only if pinned shares and minima do.
    """
    shares = {part.demand.name: part.floor_percent(device) for part in parts}
    left = device.limit_percent - sum(shares.values())
    open_ = [part for part in parts if not part.demand.pinned]
    for busiest in (False, True):  # what comes now, before what came once and may come again
        for priority in PRIORITIES:
            group = [p for p in open_ if p.demand.priority == priority and p.promised]
            left -= _serve(group, shares, left, policy.headroom, busiest=busiest)
    _spread(shares, open_, left, device, policy)
    return shares


# ---- needs -----------------------------------------------------------------------------------


def _serve(
    group: Sequence[Part],
    shares: dict[str, float],
    left_percent: float,
    headroom: float,
    *,
    busiest: bool,
) -> float:
    """Raises shares to what serves everybody, or the same part of everybody's requests.

    Returns:
        How much it took.
    """
    rates = {
        p.demand.name: headroom * (p.demand.busiest_per_s if busiest else p.demand.planned_per_s)
        for p in group
    }

    def raised(part: float) -> dict[str, float]:
        return {
            p.demand.name: max(shares[p.demand.name], p.need_percent(rates[p.demand.name] * part))
            for p in group
        }

    def cost(new: Mapping[str, float]) -> float:
        return sum(share - shares[name] for name, share in new.items())

    new = raised(1.0)
    if cost(new) > left_percent + _ROUNDING:
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = cost(raised(middle)) <= left_percent
            low, high = (middle, high) if fits else (low, middle)
        new = raised(low)
    taken = cost(new)
    shares.update(new)
    return taken


# ---- what is left over -----------------------------------------------------------------------


def _spread(
    shares: dict[str, float],
    parts: Sequence[Part],
    left_percent: float,
    device: DeviceShares,
    policy: Policy,
) -> None:
    """First headroom for promises, then whoever has none, then promises again.

    What nobody would be faster with goes to those that are short: beyond the largest share that was
    measured a model is only a guess, and a share that serves is how it learns.
    """
    promised = [part for part in parts if part.promised]
    others = [part for part in parts if not part.promised]
    left_percent -= _raise(shares, promised, left_percent, policy.headroom_max)
    left_percent -= raise_smallest(shares, others, left_percent, device)
    left_percent -= _raise(shares, promised, left_percent, math.inf)
    short = [part for part in promised if part.headroom(shares[part.demand.name]) < 1]
    raise_smallest(shares, short, left_percent, device)


def _raise(
    shares: dict[str, float], parts: Sequence[Part], left_percent: float, enough: float
) -> float:
    """Gives the next better share to whoever has least headroom, until all have enough.

    Returns:
        How much it took.
    """
    taken = 0.0
    queue = [(p.headroom(shares[p.demand.name]), p.demand.name, p) for p in parts]
    heapify(queue)
    while queue:
        headroom, name, part = queue[0]
        assert part.ladder is not None
        better = part.ladder.next_better(shares[name]) if headroom < enough else None
        if better is None or better - shares[name] > left_percent - taken + _ROUNDING:
            heappop(queue)
            continue
        taken += max(0.0, better - shares[name])
        shares[name] = max(better, shares[name])
        heapreplace(queue, (part.headroom(shares[name]), name, part))
    return taken


def raise_smallest(
    shares: dict[str, float], parts: Sequence[Part], left_percent: float, device: DeviceShares
) -> float:
    """Raises the smallest share by a step, as long as there is something left.

    Returns:
        How much it took.
    """
    taken, step = 0.0, device.step_percent
    open_ = {part.demand.name: part.demand.bounds.max_percent for part in parts}
    while open_ and taken + step <= left_percent + _ROUNDING:
        name = min(open_, key=lambda each: (shares[each], each))
        if shares[name] + step > open_[name] + _ROUNDING:
            del open_[name]
            continue
        shares[name] += step
        taken += step
    return taken
