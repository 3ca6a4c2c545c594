"""The whole decision: where every function runs, with which share and batches, and why."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from gslice.control.demand import Allotment, Policy
from gslice.control.division import Part, divide
from gslice.control.ladder import Ladders
from gslice.control.level import level
from gslice.control.placement import Site, holds, place
from gslice.control.remembered import Remembered
from gslice.control.settle import settle
from gslice.control.turns import keeps_all, rows_in_turns, turns_of, waits_in_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gslice.control.demand import Demand, DeviceShares
    from gslice.control.placement import Placement
    from gslice.control.waiting import Wait

    _Asked = dict[str, tuple[list[Part], dict[str, Allotment]]]
    """By device: who asks for a share there, and what they have of it by now."""


class _Division(NamedTuple):
    """Shares of a device by name, and how long their batches wait where they take turns."""

    shares: dict[str, float]
    waits: dict[str, Wait]


@dataclass
class Planner:
    """Decides; knows nothing but what it decided before.

    Attributes:
        policy: How careful it is.
    """

    policy: Policy = field(default_factory=Policy)
    _ladders: Ladders = field(default_factory=Ladders)
    _changed_s: dict[str, float] = field(default_factory=dict)
    _in_turns: set[str] = field(default_factory=set)
    _turned_s: dict[str, float] = field(default_factory=dict)
    _sought_s: dict[str, float] = field(default_factory=dict)
    _parts: Remembered[Part] = field(default_factory=Remembered)
    _targets: Remembered[dict[str, float]] = field(default_factory=Remembered)
    _settled: Remembered[dict[str, float]] = field(default_factory=Remembered)
    _turned: Remembered[_Division] = field(default_factory=Remembered)
    _allotments: Remembered[Allotment] = field(default_factory=Remembered)

    def plan(
        self,
        now_s: float,
        demands: Iterable[Demand],
        devices: Mapping[str, DeviceShares],
        current: Mapping[str, Sequence[Allotment]],
    ) -> dict[str, list[Allotment]]:
        """What every function gets.

        Args:
            now_s: A clock that only grows.
            demands: The functions.
            devices: Those that may be used, by name.
            current: What functions have now, by name.

        Returns:
            By name; functions that may run nowhere are missing.
        """
        by_name = {demand.name: demand for demand in demands}
        site = Site(devices, self._part, self.policy)
        placement = self.place(by_name.values(), devices, current)
        plan: dict[str, list[Allotment]] = {}
        asked: _Asked = {}
        for device in devices.values():
            here = {n: parts[device.name] for n, parts in placement.items() if device.name in parts}
            parts = [site.part(by_name[n], device.name, part) for n, part in here.items()]
            has = {
                name: allotment
                for name in here
                for allotment in current.get(name, ())
                if allotment.device == device.name
            }
            asked[device.name] = parts, has
        divided = self._divided(now_s, asked, site)
        for device_name, (parts, has) in asked.items():
            device, (shares, waits) = devices[device_name], divided[device_name]
            for part in parts:
                name = part.demand.name
                effective_percent = has[name].effective_percent if name in has else 0.0
                turn = waits[name] if waits else None
                allotment = self._allotment(part, shares[name], effective_percent, device, turn)
                plan.setdefault(name, []).append(allotment)
        return {name: plan[name] for name in by_name if name in plan}

    def place(
        self,
        demands: Iterable[Demand],
        devices: Mapping[str, DeviceShares],
        current: Mapping[str, Sequence[Allotment]],
    ) -> Placement:
        """Where every function runs: `plan` without shares, of which nothing is remembered.

        Args:
            demands: The functions.
            devices: As of `plan`.
            current: Likewise.
        """
        site = Site(devices, self._part, self.policy)
        return place(demands, _fractions(current), site)

    def holds(
        self, demands: Iterable[Demand], on: Iterable[str], devices: Mapping[str, DeviceShares]
    ) -> bool:
        """Whether devices can keep the SLOs of all that are there; see `placement.holds`."""
        return holds(demands, on, Site(devices, self._part, self.policy))

    def _divided(self, now_s: float, asked: _Asked, site: Site) -> dict[str, _Division]:
        """The shares on each device; of a function on several devices the same on each."""
        before = {
            device: {name: allotment.share_percent for name, allotment in has.items()}
            for device, (_, has) in asked.items()
        }
        first = {
            device: self._shares(now_s, parts, before[device], site.devices[device])
            for device, (parts, _) in asked.items()
        }
        placed = Counter(part.demand.name for parts, _ in asked.values() for part in parts)
        divided: dict[str, _Division] = {}
        for device, (parts, _) in asked.items():
            levelled, shares = level(parts, device, first, site), first[device]
            args = now_s, levelled, before[device], site.devices[device]
            if levelled != parts:
                shares = self._shares(*args, "levelled")
            divided[device] = _Division(shares, {})
            # Replicas have the same share everywhere, so each device's turns would be all devices'.
            turns = self.policy.turns and site.devices[device].turns
            if turns and all(placed[part.demand.name] == 1 for part in parts):
                divided[device] = self._in_turns_or(shares, *args)
            if divided[device].shares != before[device]:
                self._changed_s[device] = now_s
        return divided

    def _in_turns_or(
        self,
        side_by_side: dict[str, float],
        now_s: float,
        parts: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
    ) -> _Division:
        """The division of a device with turns, if they are better than what it is without."""
        rested = self._rested(now_s, device)
        held = _within(now_s, self._turned_s, device.name, self.policy.turns_held_s)

        def make() -> _Division:
            shares = side_by_side
            if not device.changing:
                taken = self._take_turns(now_s, parts, before, device, rested=rested, held=held)
                shares = taken or side_by_side
            waits = {}
            if device.name in self._in_turns:
                waits = waits_in_turns(parts, shares, device, self.policy)
            return _Division(shares, waits)

        put_off = _within(now_s, self._sought_s, device.name, self.policy.turns_seek_s)
        if put_off and device.name not in self._in_turns:
            return make()  # turns may be found later though nobody asks for anything else
        asked = parts, before, device, side_by_side, rested, held
        return self._turned.get(device.name, asked, make)

    def _take_turns(
        self,
        now_s: float,
        parts: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
        *,
        rested: bool,
        held: bool,
    ) -> dict[str, float] | None:
        """As `turns_of`; seeks them anew only now and then, for that is dear."""
        name, taking = device.name, device.name in self._in_turns
        target = self._target(parts, device)
        if not taking:
            seeks = not _within(now_s, self._sought_s, name, self.policy.turns_seek_s)
            if held or not seeks or keeps_all(parts, target):
                return None
            self._sought_s[name] = now_s
        taken = turns_of(
            parts, target, before, device, self.policy, taking=taking, rested=rested, held=held
        )
        if taking != (taken is not None):
            self._turned_s[name] = now_s
            self._in_turns ^= {name}
        return taken

    def _rested(self, now_s: float, device: DeviceShares) -> bool:
        return now_s - self._changed_s.get(device.name, -math.inf) >= device.rest_s

    def _shares(
        self,
        now_s: float,
        parts: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
        how: str = "",
    ) -> dict[str, float]:
        rested = self._rested(now_s, device)

        def make() -> dict[str, float]:
            target = self._target(parts, device)
            shares = settle(parts, target, before, device, self.policy, rested=rested)
            if not device.changing:
                return shares
            return {name: before.get(name, share) for name, share in shares.items()}

        return self._settled.get((device.name, how), (parts, before, device, rested), make)

    def _target(self, parts: Sequence[Part], device: DeviceShares) -> dict[str, float]:
        """As `divide`, which is asked twice in a decision, and often the same in the next one."""
        asked = parts, device.limit_percent, device.step_percent
        return self._targets.get(device.name, asked, lambda: divide(parts, device, self.policy))

    def _allotment(
        self,
        part: Part,
        share_percent: float,
        effective_percent: float,
        device: DeviceShares,
        turn: Wait | None,
    ) -> Allotment:
        def make() -> Allotment:
            made = _allotment(part, share_percent, effective_percent, device, self.policy)
            return made if turn is None else _in_turns(made, turn, self.policy)

        asked = part, share_percent, effective_percent, device.step_percent, turn
        return self._allotments.get((part.demand.name, device.name), asked, make)

    def _part(self, demand: Demand, device: DeviceShares) -> Part:
        """The same one as long as neither changes: what follows from it is found again, too."""
        asked = demand, device.limit_percent, device.step_percent
        return self._parts.get(
            (demand.name, device.name),
            asked,
            lambda: Part(demand, self._ladders.of(demand, device, self.policy.margin)),
        )


def _within(now_s: float, since_s: Mapping[str, float], name: str, time_s: float) -> bool:
    return now_s - since_s.get(name, -math.inf) < time_s


def _fractions(current: Mapping[str, Sequence[Allotment]]) -> Placement:
    """Which part of its requests each function has on each device now."""
    placement: Placement = {}
    for name, allotments in current.items():
        whole = sum(each.rate_per_s for each in allotments)
        placement[name] = {
            each.device: each.rate_per_s / whole if whole > 0 else 1 / len(allotments)
            for each in allotments
        }
    return placement


def _allotment(
    part: Part,
    share_percent: float,
    effective_percent: float,
    device: DeviceShares,
    policy: Policy,
) -> Allotment:
    """What goes with a share; batches and admission are for what serves until it is in effect."""
    demand, ladder = part.demand, part.ladder
    if ladder is None:
        return Allotment(device.name, share_percent, rate_per_s=demand.rate_per_s, part=part)
    grows = 0 < effective_percent <= share_percent - device.step_percent
    serving = effective_percent if grows else share_percent
    short = demand.slo_us > 0 and ladder.capacity_per_s(serving) < demand.busiest_per_s
    shed_us = demand.slo_us * (1 - policy.shed_margin) if short else 0.0
    rows_max = ladder.batch_rows_max(serving)
    return Allotment(
        device=device.name,
        share_percent=share_percent,
        batch_rows_max=ladder.full_rows_max(serving, shed_us) if short else rows_max,
        rate_per_s=demand.rate_per_s,
        capacity_per_s=ladder.capacity_per_s(share_percent),
        shed_us=shed_us,
        effective_percent=serving if grows else 0.0,
        part=part,
    )


def _in_turns(allotment: Allotment, turn: Wait, policy: Policy) -> Allotment:
    """The same where batches wait for their turn, and others for their end."""
    part = allotment.part
    if part is None or not part.promised or allotment.shed_us:
        return replace(allotment, turn=turn)
    rows_max = rows_in_turns(part, allotment.share_percent, policy)
    return replace(allotment, turn=turn, batch_rows_max=rows_max)
