"""The whole decision: where every function runs, with which share and batches, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from gslice.control.demand import Allotment, Policy
from gslice.control.division import divide
from gslice.control.ladder import Ladders
from gslice.control.placement import Site, place
from gslice.control.settle import settle
from gslice.control.turns import rows_in_turns, turns_of, waits_in_turns
from gslice.control.waiting import NO_WAIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gslice.control.demand import Demand, DeviceShares
    from gslice.control.division import Part
    from gslice.control.ladder import Ladder
    from gslice.control.placement import Placement
    from gslice.control.waiting import Wait


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
    _answers: dict[str, tuple[object, _Division]] = field(default_factory=dict)
    _in_turns: set[str] = field(default_factory=set)

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
        site = Site(devices, self._ladder, self.policy)
        placement = self.place(by_name.values(), devices, current)
        plan: dict[str, list[Allotment]] = {}
        for device in devices.values():
            here = {n: parts[device.name] for n, parts in placement.items() if device.name in parts}
            parts = [site.part(by_name[n], device.name, part) for n, part in here.items()]
            has = {
                name: allotment
                for name in here
                for allotment in current.get(name, ())
                if allotment.device == device.name
            }
            before = {name: allotment.share_percent for name, allotment in has.items()}
            shares, waits = self._division(now_s, parts, before, device)
            for part in parts:
                name = part.demand.name
                effective_percent = has[name].effective_percent if name in has else 0.0
                allotment = _allotment(part, shares[name], effective_percent, device, self.policy)
                if waits:
                    allotment = _in_turns(allotment, waits.get(name, NO_WAIT), self.policy)
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
        site = Site(devices, self._ladder, self.policy)
        return place(demands, _fractions(current), site)

    def _division(
        self,
        now_s: float,
        parts: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
    ) -> _Division:
        rested = now_s - self._changed_s.get(device.name, -math.inf) >= device.rest_s
        asked = parts, before, device, rested
        if device.name not in self._answers or self._answers[device.name][0] != asked:
            self._answers[device.name] = asked, self._divided(parts, before, device, rested=rested)
        division = self._answers[device.name][1]
        if division.shares != before:
            self._changed_s[device.name] = now_s
        return division

    def _divided(
        self,
        parts: Sequence[Part],
        before: Mapping[str, float],
        device: DeviceShares,
        *,
        rested: bool,
    ) -> _Division:
        target, policy = divide(parts, device, self.policy), self.policy
        taking = device.name in self._in_turns
        shares = None
        if policy.turns:
            shares = turns_of(parts, target, before, device, policy, taking=taking, rested=rested)
        if device.changing:
            held = shares or target
            shares = {name: before.get(name, share) for name, share in held.items()}
        elif shares is None:
            self._in_turns.discard(device.name)
            shares = settle(parts, target, before, device, policy, rested=rested)
        else:
            self._in_turns.add(device.name)
        if device.name not in self._in_turns:
            return _Division(shares, {})
        return _Division(shares, waits_in_turns(parts, shares, device, policy))

    def _ladder(self, demand: Demand, device: DeviceShares) -> Ladder | None:
        return self._ladders.of(demand, device, self.policy.margin)


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
