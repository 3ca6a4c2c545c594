"""On which devices functions run, and which part of its requests each serves there.

First fit, largest need first, as in gpulet and ParvaGPU: a function goes whole to a device where it
fits; what fits nowhere is cut into replicas, the least number that fits. Functions that share no
device get empty ones, before all others. What runs stays where it is: only a device that is asked
for more than it has gives a function away, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gslice.control.demand import PRIORITIES
from gslice.control.isolation import apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gslice.control.demand import Demand, DeviceShares, Policy
    from gslice.control.division import Part

Placement = dict[str, dict[str, float]]
"""By function, by device: which part of its requests is served there. Parts of one sum to 1."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Site:
    """Everything that placing needs to know.

    Attributes:
        devices: By name; lost and drained ones are not among them.
        part_of: A function's part on a device, where all of its requests are served there.
        policy: How careful to be.
    """

    devices: Mapping[str, DeviceShares]
    part_of: Callable[[Demand, DeviceShares], Part]
    policy: Policy

    def part(self, demand: Demand, device: str, fraction: float) -> Part:
        """A function's part on a device."""
        return self.part_of(demand.part(fraction), self.devices[device])

    def at_most(self, part: Part, device: str, percent: float) -> Part:
        """The same part, not asking for more than a share, or its minimum."""
        bounds = part.demand.bounds
        most = replace(bounds, max_percent=max(percent, bounds.min_percent))
        return self.part(replace(part.demand, bounds=most), device, 1.0)

    def need_percent(self, demand: Demand, device: str, fraction: float) -> float:
        """The share that it needs there: enough for its SLO, never less than its minimum."""
        part = self.part(demand, device, fraction)
        floor = part.floor_percent(self.devices[device])
        if demand.pinned:
            return floor
        need = part.need_percent(part.demand.planned_per_s * self.policy.headroom)
        return max(floor, min(need, demand.quota.percent) if demand.quota else need)

    def suffices(self, demand: Demand, device: str, fraction: float) -> bool:
        """Whether the whole device would keep its SLO there; True where none is to be kept."""
        part = self.part(demand, device, fraction)
        if not part.promised or part.ladder is None:
            return True
        rate = part.demand.planned_per_s * self.policy.headroom
        return part.ladder.need_percent(rate) is not None

    def allowed(self, demand: Demand) -> list[str]:
        """Where it may run, by the order of the node's devices."""
        return [name for name in self.devices if not demand.devices or name in demand.devices]


def place(demands: Iterable[Demand], current: Placement, site: Site) -> Placement:
    """Where every function runs.

    Args:
        demands: The functions.
        current: Where they run now; devices that are gone are ignored.
        site: Devices, and what they are worth.

    Returns:
        A placement; functions that may run nowhere are missing.
    """
    functions = list(demands)
    placement: Placement = {}
    left = {name: device.limit_percent for name, device in site.devices.items()}

    def settle(demand: Demand, where: dict[str, float]) -> None:
        placement[demand.name] = where
        for device, fraction in where.items():
            left[device] -= site.need_percent(demand, device, fraction)

    new = []
    for demand in functions:
        if stays := _what_stays(demand, current, site):
            settle(demand, stays)
        else:
            new.append(demand)
    for demand in sorted(new, key=lambda d: _order(d, site)):
        if found := _fit(demand, _open(demand, functions, placement, site), left, site):
            settle(demand, found)
    if not _relieve(functions, placement, left, site):
        _replicate(functions, placement, left, site)
    return placement


def holds(demands: Iterable[Demand], on: Iterable[str], site: Site) -> bool:
    """Whether devices can keep the SLOs of all that are there.

    Args:
        demands: Functions, each in equal parts on all of its devices.
        on: Names of the devices.
        site: Devices, and what they are worth.
    """
    functions = list(demands)
    for device in on:
        parts = [(each, 1 / len(each.devices)) for each in functions if device in each.devices]
        needed = sum(site.need_percent(each, device, part) for each, part in parts)
        if needed > site.devices[device].limit_percent + _ROUNDING:
            return False
        if not all(site.suffices(each, device, part) for each, part in parts):
            return False
    return True


# ---- parts -----------------------------------------------------------------------------------


def _order(demand: Demand, site: Site) -> tuple[bool, int, float, str]:
    needs = [site.need_percent(demand, device, 1.0) for device in site.allowed(demand)]
    need, priority = min(needs, default=0.0), PRIORITIES.index(demand.priority)
    return not demand.exclusive, priority, -need, demand.name


def _open(
    demand: Demand, functions: Sequence[Demand], placement: Placement, site: Site
) -> list[str]:
    """Where it may run beside those that are placed, and those that have no other choice."""
    apart_from = [other for other in functions if apart(demand, other)]

    def is_taken(device: str) -> bool:
        return any(
            device in placement.get(other.name, ()) or site.allowed(other) == [device]
            for other in apart_from
        )

    return [device for device in site.allowed(demand) if not is_taken(device)]


def _what_stays(demand: Demand, current: Placement, site: Site) -> dict[str, float]:
    """Its placement without devices that are gone."""
    allowed = site.allowed(demand)
    there = {d: part for d, part in current.get(demand.name, {}).items() if d in allowed}
    whole = sum(there.values())
    return {device: part / whole for device, part in there.items()} if whole > 0 else {}


def _fit(
    demand: Demand, allowed: Sequence[str], left: Mapping[str, float], site: Site
) -> dict[str, float]:
    """The least number of equal replicas that fit; where there is most room if none does."""
    if not allowed:
        return {}
    most = min(len(allowed), demand.replicas_max)
    counts = range(min(most, max(1, demand.replicas_min)), most + 1)
    for count in counts:
        needs = {d: site.need_percent(demand, d, 1 / count) for d in allowed}
        fits = [
            device
            for device in allowed
            if needs[device] <= left[device] + _ROUNDING
            and site.suffices(demand, device, 1 / count)
        ]
        if len(fits) >= count:
            chosen = _preferred(fits, left, needs, site.policy)[:count]
            return dict.fromkeys(chosen, 1 / count)
    roomiest = sorted(allowed, key=lambda device: -left[device])
    for count in counts:
        if all(site.suffices(demand, device, 1 / count) for device in roomiest[:count]):
            return dict.fromkeys(roomiest[:count], 1 / count)
    return dict.fromkeys(roomiest[:most], 1 / most)


def _preferred(
    fits: Sequence[str],
    left: Mapping[str, float],
    needs: Mapping[str, float],
    policy: Policy,
) -> list[str]:
    """Best fit for `fewest` devices, worst fit for most `headroom`."""
    rooms = {device: left[device] - needs[device] for device in fits}
    return sorted(fits, key=lambda d: rooms[d], reverse=policy.packing == "headroom")


def _relieve(
    functions: Sequence[Demand], placement: Placement, left: dict[str, float], site: Site
) -> bool:
    """Moves one function away from the device that is asked for most beyond what it has.

    If none of its functions can go, from the next one. False: there is none, or nobody can.
    """
    for device in sorted(left, key=lambda each: left[each]):
        if left[device] >= -_ROUNDING:
            return False
        if _give_away(device, functions, placement, left, site):
            return True
    return False


def _replicate(
    functions: Sequence[Demand], placement: Placement, left: dict[str, float], site: Site
) -> None:
    """Has one function on more devices for which even all of its own are too small."""
    for demand in functions:
        here = placement.get(demand.name, {})
        if all(site.suffices(demand, device, part) for device, part in here.items()):
            continue
        after = dict(left)
        for device, part in here.items():
            after[device] += site.need_percent(demand, device, part)
        open_ = _open(demand, functions, placement, site)
        others = [device for device in open_ if device not in here]
        for count in range(len(here) + 1, min(len(here) + len(others), demand.replicas_max) + 1):
            more = sorted(others, key=lambda device: -after[device])[: count - len(here)]
            found = dict.fromkeys([*here, *more], 1 / count)
            if all(
                site.need_percent(demand, device, 1 / count) <= after[device] + _ROUNDING
                for device in found
            ):
                placement[demand.name] = found
                return


def _give_away(
    device: str,
    functions: Sequence[Demand],
    placement: Placement,
    left: dict[str, float],
    site: Site,
) -> bool:
    """Moves a function away from a device, if no device concerned is worse off than that was.

    The smallest that relieves it goes; it becomes replicas if it fits nowhere whole.
    """
    here = [d for d in functions if device in placement.get(d.name, {})]
    needs = {d.name: site.need_percent(d, device, placement[d.name][device]) for d in here}
    enough = [d for d in here if needs[d.name] >= -left[device]]
    smallest_first = sorted(enough, key=lambda d: needs[d.name])
    largest_first = sorted(here, key=lambda d: -needs[d.name])
    for demand in [*smallest_first, *largest_first]:
        after = dict(left)
        for held, fraction in placement[demand.name].items():
            after[held] += site.need_percent(demand, held, fraction)
        found = _fit(demand, _open(demand, functions, placement, site), after, site)
        for held, fraction in found.items():
            after[held] -= site.need_percent(demand, held, fraction)
        concerned = {*placement[demand.name], *found}
        better = min(after[each] for each in concerned) > left[device] + _ROUNDING
        if found and better and found != placement[demand.name]:
            placement[demand.name] = found
            left.update(after)
            return True
    return False
