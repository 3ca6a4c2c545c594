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
from gslice.control.quotas import Quotas, caps, within
from gslice.control.remembered import Remembered
from gslice.control.settle import settle
from gslice.control.turns import keeps_all, rows_in_turns, turns_of, waits_in_turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gslice.control.demand import Demand, DeviceShares
    from gslice.control.placement import Placement
    from gslice.control.quotas import Room
    from gslice.control.waiting import Wait
    from gslice.core.access import ShareQuota

    _Asked = dict[str, tuple[list[Part], dict[str, Allotment]]]
    """By device: who asks for a share there, and what they have of it by now."""
    _Parts = Mapping[str, list[Part]]
    _Shares = Mapping[str, Mapping[str, float]]


class _Beside(NamedTuple):
    """Shares of a device side by side, of whom, and of what they may ask for there."""

    shares: dict[str, float]
    parts: Sequence[Part]
    wanted: Sequence[Part]


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
        parts = {device: there for device, (there, _) in asked.items()}
        beside = self._within_quotas(now_s, parts, before, site)
        quotas, shares = _quotas(parts, site), {name: each.shares for name, each in beside.items()}
        placed = Counter(part.demand.name for there in parts.values() for part in there)
        divided: dict[str, _Division] = {}
        for device, there in parts.items():
            divided[device] = _Division(shares[device], {})
            # Replicas have the same share everywhere, so each device's turns would be all devices'.
            turns = self.policy.turns and site.devices[device].turns
            if turns and all(placed[part.demand.name] == 1 for part in there):
                rooms = quotas.rooms(device, shares) if quotas.of else ()
                args = now_s, beside[device], before[device], site.devices[device], rooms
                divided[device] = self._in_turns_or(*args)
                shares[device] = divided[device].shares
            if divided[device].shares != before[device]:
                self._changed_s[device] = now_s
        return divided

    def _within_quotas(
        self, now_s: float, parts: _Parts, before: _Shares, site: Site
    ) -> dict[str, _Beside]:
        """Shares side by side on each device, with which nobody has more than its tenant may."""
        quotas, most = _quotas(parts, site), dict[str, float]()
        beside = self._side_by_side(now_s, parts, before, site, most)
        if not quotas.of:
            return beside
        for _ in range(
            len(set(quotas.of.values()))
        ):  # who is held to a quota leaves more to others
            targets = {d: self._target(b.wanted, site.devices[d]) for d, b in beside.items()}
            over = [quota for quota in quotas.overdrawn(targets) if not _held(quotas, quota, most)]
            if not over:
                break
            for quota in over:
                most |= caps(quota, parts, targets, site, self.policy)
            beside = self._side_by_side(now_s, parts, before, site, most)
        targets = {d: self._target(b.wanted, site.devices[d]) for d, b in beside.items()}
        shares = quotas.trimmed({device: b.shares for device, b in beside.items()}, targets)
        return {device: b._replace(shares=dict(shares[device])) for device, b in beside.items()}

    def _side_by_side(
        self,
        now_s: float,
        parts: _Parts,
        before: _Shares,
        site: Site,
        most_percent: Mapping[str, float],
    ) -> dict[str, _Beside]:
        """Shares without turns, none larger than it may be."""

        def of(device: str, there: list[Part], how: str) -> _Beside:
            wanted = within(there, device, most_percent, site)
            args = now_s, there, wanted, before[device], site.devices[device]
            held = "" if wanted is there else "held"
            return _Beside(self._shares(*args, how + held), there, wanted)

        first = {device: of(device, there, "") for device, there in parts.items()}
        shares = {device: each.shares for device, each in first.items()}
        beside: dict[str, _Beside] = {}
        for device, there in parts.items():
            levelled = level(there, device, shares, site)
            same = levelled == there
            beside[device] = first[device] if same else of(device, levelled, "levelled")
        return beside

    def _in_turns_or(
        self,
        now_s: float,
        beside: _Beside,
        before: Mapping[str, float],
        device: DeviceShares,
        rooms: Sequence[Room],
    ) -> _Division:
        """The division of a device with turns, if they are better than what it is without."""
        rested = self._rested(now_s, device)
        held = _within(now_s, self._turned_s, device.name, self.policy.turns_held_s)

        def make() -> _Division:
            shares = beside.shares
            if not device.changing:
                args = now_s, beside, before, device, rooms
                shares = self._take_turns(*args, rested=rested, held=held) or shares
            waits = {}
            if device.name in self._in_turns:
                waits = waits_in_turns(beside.parts, shares, device, self.policy)
            return _Division(shares, waits)

        put_off = _within(now_s, self._sought_s, device.name, self.policy.turns_seek_s)
        if put_off and device.name not in self._in_turns:
            return make()  # turns may be found later though nobody asks for anything else
        asked = beside, before, device, rooms, rested, held
        return self._turned.get(device.name, asked, make)

    def _take_turns(
        self,
        now_s: float,
        beside: _Beside,
        before: Mapping[str, float],
        device: DeviceShares,
        rooms: Sequence[Room],
        *,
        rested: bool,
        held: bool,
    ) -> dict[str, float] | None:
        """As `turns_of`; seeks them anew only now and then, for that is dear."""
        name, taking, parts = device.name, device.name in self._in_turns, beside.parts
        target = self._target(beside.wanted, device)
        if not taking:
            seeks = not _within(now_s, self._sought_s, name, self.policy.turns_seek_s)
            if held or not seeks or keeps_all(parts, target):
                return None
            self._sought_s[name] = now_s
        taken = turns_of(
            parts,
            target,
            before,
            device,
            self.policy,
            taking=taking,
            rested=rested,
            held=held,
            wanted=beside.wanted,
            rooms=rooms,
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
        wanted: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
        how: str,
    ) -> dict[str, float]:
        rested = self._rested(now_s, device)

        def make() -> dict[str, float]:
            target = self._target(wanted, device)
            shares = settle(parts, target, before, device, self.policy, rested=rested)
            if not device.changing:
                return shares
            return {name: before.get(name, share) for name, share in shares.items()}

        asked = parts, wanted, before, device, rested
        return self._settled.get((device.name, how), asked, make)

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


def _quotas(parts: _Parts, site: Site) -> Quotas:
    demands = [part.demand for there in parts.values() for part in there]
    limits = {name: device.limit_percent for name, device in site.devices.items()}
    return Quotas({each.name: each.quota for each in demands if each.quota}, limits)


def _held(quotas: Quotas, quota: ShareQuota, most_percent: Mapping[str, float]) -> bool:
    return all(name in most_percent for name, own in quotas.of.items() if own == quota)


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
