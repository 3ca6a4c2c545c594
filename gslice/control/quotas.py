"""What tenants' functions may have of all devices together.

A function counts with its share of each of its devices. Where functions take turns, no more of a
device runs at once than it has: that is the most that counts there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gslice.control.demand import DeviceShares
from gslice.control.division import Part, divide
from gslice.core.types import ShareBounds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gslice.control.demand import Demand, Policy
    from gslice.control.placement import Site
    from gslice.core.access import ShareQuota

    Shares = Mapping[str, Mapping[str, float]]
    """In percent, by device, by function."""

Room = tuple[frozenset[str], float]
"""Functions of a device that have a quota in common, and what they may have there in all."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Quotas:
    """What tenants may have, and whose shares count for it.

    Attributes:
        of: By function; those that count for none are missing.
        limits_percent: What may run of each device at once, by name.
    """

    of: Mapping[str, ShareQuota]
    limits_percent: Mapping[str, float]

    def taken(self, shares: Shares) -> dict[ShareQuota, float]:
        """What is held of each quota by functions with these shares."""
        taken: dict[ShareQuota, float] = defaultdict(float)
        for device, quota, percent in self._held(shares):
            taken[quota] += min(percent, self.limits_percent[device])
        return dict(taken)

    def overdrawn(self, shares: Shares) -> list[ShareQuota]:
        """Those of which more is held than there is."""
        taken = self.taken(shares).items()
        return [quota for quota, percent in taken if percent > quota.percent + _ROUNDING]

    def rooms(self, device: str, shares: Shares) -> tuple[Room, ...]:
        """What tenants may have of a device, beside what they hold on the others."""
        elsewhere = self.taken({name: each for name, each in shares.items() if name != device})
        members: dict[ShareQuota, set[str]] = defaultdict(set)
        for name in shares[device]:
            if quota := self.of.get(name):
                members[quota].add(name)
        return tuple(
            (frozenset(names), quota.percent - elsewhere.get(quota, 0.0))
            for quota, names in members.items()
        )

    def trimmed(self, shares: Shares, targets: Shares) -> Shares:
        """Shares of which some are on their way to others, within quotas within which those are.

        Who has most beyond its target goes there at once.

        Args:
            shares: As they would be.
            targets: As they are to be one day.
        """
        for quota in self.overdrawn(shares):
            beyond = {
                name: share - targets[device][name]
                for device, functions in shares.items()
                for name, share in functions.items()
                if self.of.get(name) == quota
            }
            for name in sorted(beyond, key=lambda each: (-beyond[each], each)):
                if beyond[name] <= 0 or quota not in self.overdrawn(shares):
                    break
                shares = {
                    device: {**each, name: targets[device][name]} if name in each else each
                    for device, each in shares.items()
                }
        return shares

    def _held(self, shares: Shares) -> Iterator[tuple[str, ShareQuota, float]]:
        for device, functions in shares.items():
            held: dict[ShareQuota, float] = defaultdict(float)
            for name, percent in functions.items():
                if quota := self.of.get(name):
                    held[quota] += percent
            for quota, percent in held.items():
                yield device, quota, percent


def fit(shares: Mapping[str, float], rooms: Iterable[Room], limit_percent: float) -> bool:
    """Whether shares of a device that has a limit leave its rooms as they are."""
    return all(
        min(sum(shares[name] for name in names), limit_percent) <= room + _ROUNDING
        for names, room in rooms
    )


def caps(
    quota: ShareQuota,
    parts: Mapping[str, Sequence[Part]],
    shares: Shares,
    site: Site,
    policy: Policy,
) -> dict[str, float]:
    """The most that each function may have so that all together keep within a quota.

    It is divided among them like a device: needs first, by priority, then what is left.

    Args:
        quota: The tenant's.
        parts: Who is on each device.
        shares: What they would have without it.
        site: What shares are worth.
        policy: How careful to be.
    """
    members, names = [], {}
    for device, there in parts.items():
        for part in there:
            if part.demand.quota == quota:
                member = _member(part, device, shares[device][part.demand.name], site)
                members.append(member)
                names[member.demand.name] = part.demand.name
    step_percent = min(device.step_percent for device in site.devices.values())
    pool = DeviceShares(quota.tenant, quota.percent, step_percent)
    most: dict[str, float] = {}
    for member_name, share in divide(members, pool, policy).items():
        name = names[member_name]
        most[name] = min(share, most.get(name, share))
    return most


def _member(part: Part, device: str, share_percent: float, site: Site) -> Part:
    """A function on one of its devices, as one that takes of its tenant's quota."""
    name, demand = f"{part.demand.name} on {device}", part.demand
    if demand.pinned:
        bounds = ShareBounds(share_percent, share_percent, auto=False)
        return Part(replace(demand, name=name, exclusive=False, bounds=bounds), None)
    bounded = site.at_most(part, device, share_percent)
    return Part(replace(bounded.demand, name=name), bounded.ladder)


def within(
    parts: Sequence[Part], device: str, most_percent: Mapping[str, float], site: Site
) -> Sequence[Part]:
    """Who is on a device, none asking for more than it may have; the same if none does."""
    asks = [most_percent.get(part.demand.name, part.demand.bounds.max_percent) for part in parts]
    if all(
        part.demand.pinned or most >= part.demand.bounds.max_percent
        for part, most in zip(parts, asks, strict=True)
    ):
        return parts
    return [
        part
        if part.demand.pinned or most >= part.demand.bounds.max_percent
        else site.at_most(part, device, most)
        for part, most in zip(parts, asks, strict=True)
    ]


def tied(demands: Iterable[Demand], devices: Iterable[str]) -> set[str]:
    """Devices, and those that must be decided with them as tenants have their quota on both."""
    found, functions = set(devices), [demand for demand in demands if demand.quota]
    while True:
        quotas = {demand.quota for demand in functions if not found.isdisjoint(demand.devices)}
        more = {d for demand in functions if demand.quota in quotas for d in demand.devices}
        if more <= found:
            return found
        found |= more
