"""Who gets how much of a device, within tenants' quotas.

Fixed shares come first. What they leave goes to the others max-min fairly: everybody the same,
except those that their bounds hold lower or higher.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gslice.core.errors import ResourceExhausted
from gslice.core.figures import shares_sum
from gslice.core.types import ShareBounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.core.access import ShareQuota

_ROUNDING_PERCENT = 1e-9


@dataclass(frozen=True)
class Holding:
    """What a function asks of its tenant's quota.

    Attributes:
        bounds: Of its share of each of its devices.
        devices: On how many it is.
    """

    bounds: ShareBounds
    devices: int = 1


@dataclass(frozen=True)
class _Pool:
    """What is divided: a device, or what a tenant may have of all of them.

    Attributes:
        what: For the error, as are the two that follow.
        over: What is wrong with more.
        hint: What can be done about it.
        limit_percent: Most that all together may get.
        bounds: By function.
        copies: How many times a function's share counts; once where it is missing.
    """

    what: str
    over: str
    hint: str
    limit_percent: float
    bounds: Mapping[str, ShareBounds]
    copies: Mapping[str, int] = field(default_factory=dict)

    def total(self, shares: Mapping[str, float]) -> float:
        """What shares take of it."""
        return sum(share * self.copies.get(name, 1) for name, share in shares.items())

    def settled(self, bounds: Mapping[str, ShareBounds]) -> _Pool:
        """The same with other bounds where some are given."""
        return replace(self, bounds={n: bounds.get(n, own) for n, own in self.bounds.items()})


def allocate(
    requests: Mapping[str, ShareBounds], limit_percent: float = 100.0, device: str = "cpu"
) -> dict[str, float]:
    """The share of every function on a device, in percent of the device.

    Args:
        requests: Requested bounds by function; fixed where both bounds are the same.
        limit_percent: Most that gslice may use of the device.
        device: Its name, for the error.

    Returns:
        A share for every function; the sum never passes `limit_percent`.

    Raises:
        ResourceExhausted: fixed shares and minima do not fit; the message shows the sum.
    """
    return _divide(_of_device(device, limit_percent, requests))


def allocate_all(
    requests: Mapping[str, Mapping[str, ShareBounds]],
    limits_percent: Mapping[str, float],
    quotas: Mapping[ShareQuota, Mapping[str, Holding]] = {},
) -> dict[str, float]:
    """The share of every function on each of its devices, the same on all of them.

    A function on several devices gets what the tightest of them gives it; what it leaves on the
    others is divided among those who are there. A tenant's quota is divided like one more device on
    which its functions are, each as often as it is on a device.

    Args:
        requests: Requested bounds by device, by function.
        limits_percent: Most that gslice may use of each device.
        quotas: What functions ask of their tenants' quotas, by name.

    Returns:
        A share for every function, in percent of each of its devices.

    Raises:
        ResourceExhausted: as of `allocate`.
    """
    pools = [_of_device(name, limits_percent[name], each) for name, each in requests.items()]
    pools += [_of_tenant(quota, holdings) for quota, holdings in quotas.items()]
    counts = Counter(name for pool in pools for name in pool.bounds)
    open_ = {name for name, count in counts.items() if count > 1}
    settled: dict[str, ShareBounds] = {}
    while True:
        divided = [_divide(pool.settled(settled)) for pool in pools]
        least: dict[str, float] = {}
        for shares in divided:
            for name, share in shares.items():
                least[name] = min(share, least.get(name, share))
        if not open_:
            return least
        # The smallest first: what others get later is never less than what they have now.
        name = min(open_, key=lambda each: (least[each], each))
        open_.discard(name)
        settled[name] = ShareBounds(least[name], least[name])


def shrinks_first(
    current: Mapping[str, float], target: Mapping[str, float]
) -> list[tuple[str, float]]:
    """The changes that lead from one division to another, in an order that never over-commits."""
    changes = [
        (name, share)
        for name, share in sorted(target.items())
        if name not in current or differs(current[name], share)
    ]
    return sorted(changes, key=lambda change: change[1] - current.get(change[0], 0.0))


def differs(one_percent: float, other_percent: float) -> bool:
    """Whether two shares differ by more than rounding."""
    return abs(one_percent - other_percent) > _ROUNDING_PERCENT


def _of_device(device: str, limit_percent: float, requests: Mapping[str, ShareBounds]) -> _Pool:
    hint = "lower a fixed share or a minimum, or unload a function"
    return _Pool(f"device {device}", "more than its share limit of", hint, limit_percent, requests)


def _of_tenant(quota: ShareQuota, holdings: Mapping[str, Holding]) -> _Pool:
    return _Pool(
        f"tenant {quota.tenant}",
        "more than its share quota of",
        f"lower a share, unload a function, or raise node.access.tenants.{quota.tenant}.share",
        quota.percent,
        {name: holding.bounds for name, holding in holdings.items()},
        {name: holding.devices for name, holding in holdings.items()},
    )


def _divide(pool: _Pool) -> dict[str, float]:
    """The share of every function that takes of a pool, never more in all than there is."""
    floors = {name: bounds.min_percent for name, bounds in sorted(pool.bounds.items())}
    if pool.total(floors) > pool.limit_percent + _ROUNDING_PERCENT:
        parts = shares_sum(
            {name: (floor, pool.copies.get(name, 1)) for name, floor in floors.items()}
        )
        raise ResourceExhausted(
            f"{pool.what}: {parts}, {pool.over} {pool.limit_percent:g}%",
            hint=pool.hint,
        )
    fixed = {n: floor for n, floor in floors.items() if floor == pool.bounds[n].max_percent}
    autos = {name: pool.bounds[name] for name in floors if name not in fixed}
    return fixed | _water_fill(pool, autos, pool.limit_percent - pool.total(fixed))


def _water_fill(
    pool: _Pool, bounds: Mapping[str, ShareBounds], capacity: float
) -> dict[str, float]:
    """Max-min fair shares: raise one level until the capacity is used or all are at their maximum.

    A function held at a bound leaves the division; the level of the rest is then computed anew, so
    at most one round per function.
    """
    granted: dict[str, float] = {}
    open_ = dict(bounds)
    while open_:
        count = sum(pool.copies.get(name, 1) for name in open_)
        level = max(0.0, capacity - pool.total(granted)) / count
        clamped = {n: min(max(level, b.min_percent), b.max_percent) for n, b in open_.items()}
        excess = pool.total(clamped) - level * count
        # Too much in all: those below their minimum are settled; too little: those at the maximum.
        if excess > _ROUNDING_PERCENT:
            settled = [n for n, b in open_.items() if level < b.min_percent]
        elif excess < -_ROUNDING_PERCENT:
            settled = [n for n, b in open_.items() if level > b.max_percent]
        else:
            settled = list(open_)
        for name in settled:
            granted[name] = clamped[name]
            del open_[name]
    return granted
