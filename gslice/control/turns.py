"""Turns in time: shares that add up to more than a device has, where SLOs are kept so and not else.

A function with a tight SLO needs a large share for a short time. Where such shares do not fit side
by side, each gets what it needs while it runs, and batches take turns: earliest deadline first, the
sum of what runs within the limit, one batch of an instance under way, nobody passes the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from gslice.control.division import divide, raise_smallest
from gslice.control.quotas import fit
from gslice.control.waiting import NO_WAIT, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gslice.control.demand import DeviceShares, Policy
    from gslice.control.division import Part
    from gslice.control.ladder import Ladder
    from gslice.control.quotas import Room
    from gslice.control.waiting import Prediction

_LATE_MAX = 0.01  # of a function's requests: what an SLO at the 99th percentile allows
_TO_END = 2.0  # times that: turns do not end for a little more load
_HOPELESS = 2 * _LATE_MAX * _TO_END
_WIDER = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
_FASTER = 1.05  # of the time of two rows: a larger share is not worth that others wait
_ROUNDS = 3  # until waits and loads fit each other
_STEPS = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Taker:
    """Who takes turns, and with what.

    Attributes:
        ladder: What shares are worth to it.
        share_percent: While it runs.
        rows_max: Largest batch.
        rate_per_s: To be served.
        within_us: In which time.
    """

    ladder: Ladder
    share_percent: float
    rows_max: int
    rate_per_s: float
    within_us: float


def turns_of(
    parts: Sequence[Part],
    side_by_side: Mapping[str, float],
    current: Mapping[str, float],
    device: DeviceShares,
    policy: Policy,
    *,
    taking: bool,
    rested: bool,
    held: bool = False,
    wanted: Sequence[Part] = (),
    rooms: Sequence[Room] = (),
) -> dict[str, float] | None:
    """Shares of a device whose functions take turns.

    Side by side is better: nobody waits for anybody. So turns begin only where that keeps not all
    SLOs, and turns do, with room for error. They go on, with the same shares, while they keep
    them; and end after a rest, when there would be ample room side by side. What was just begun or
    ended stays so: after a step of the load, its estimate overshoots and comes back.

    Args:
        parts: Who is on the device.
        side_by_side: Their shares without turns.
        current: Their shares as they are; functions may be missing.
        device: What there is.
        policy: How careful to be.
        taking: Whether they take turns now.
        rested: Whether shares may change although nobody needs it.
        held: Whether turns began or ended just now.
        wanted: `parts` with what they may ask for side by side; empty: the same.
        rooms: What tenants may have of the device.

    Returns:
        By name; the sum may pass the limit. None: they take no turns.
    """
    if not taking:
        if held or keeps_all(parts, side_by_side):
            return None
        return best_turns(parts, device, policy, rooms)
    if rested and not held:
        ample = replace(policy, headroom=policy.headroom * (1 + policy.dead_band))
        if keeps_all(parts, divide(wanted or parts, device, ample), 1 + policy.dead_band):
            return None
    known = (
        current.keys() == {part.demand.name for part in parts}
        and can_take_turns(parts)
        and fit(current, rooms, device.limit_percent)
    )
    if known and late_in_turns(parts, current, device, policy) <= _LATE_MAX * _TO_END:
        return dict(current)
    found = best_turns(parts, device, policy, rooms)
    return dict(current) if found is None and held and known else found


def keeps_all(parts: Sequence[Part], shares: Mapping[str, float], headroom: float = 1.0) -> bool:
    """Whether shares side by side serve all that are promised something, at their busiest."""
    return all(p.headroom(shares[p.demand.name]) >= headroom for p in parts if p.promised)


def best_turns(
    parts: Sequence[Part], device: DeviceShares, policy: Policy, rooms: Sequence[Room] = ()
) -> dict[str, float] | None:
    """Shares with which all SLOs of a device are kept in turns, with most room.

    Functions without an SLO always find room: with what the largest share leaves them if SLOs are
    kept so, else with the least that they may have.

    Args:
        parts: Who is on the device.
        device: What there is.
        policy: How careful to be.
        rooms: What tenants may have of the device.

    Returns:
        By name. None: turns do not keep all SLOs.
    """
    if not can_take_turns(parts):
        return None
    best: tuple[float, dict[str, float]] | None = None
    tried: list[dict[str, float]] = []  # past what is enough for all, wider is the same again
    for wider in _WIDER:
        takers = {p.demand.name: _share(p, wider, device) for p in parts if p.demand.slo_us}
        if takers in tried:
            continue
        tried.append(takers)
        for others in _beside(parts, max(takers.values()), device):
            if not fit(takers | others, rooms, device.limit_percent):
                continue
            late = late_in_turns(parts, takers | others, device, policy)
            if late <= _LATE_MAX:
                if best is None or late < best[0]:
                    best = late, takers | others
                break
    return best[1] if best else None


def can_take_turns(parts: Sequence[Part]) -> bool:
    """Whether it is known of all that were promised something what they do to each other."""
    takers = [part for part in parts if part.demand.slo_us]
    return len(takers) > 1 and all(
        part.promised and not part.demand.pinned and part.demand.instances == 1 for part in takers
    )


def late_in_turns(
    parts: Sequence[Part],
    shares_percent: Mapping[str, float],
    device: DeviceShares,
    policy: Policy,
) -> float:
    """The largest part of a function's requests that is late when all take turns.

    A batch waits if others run beside which it does not fit, or if somebody waits already. How
    often that is follows from how long each runs, as if they did so independently; how long it
    takes, from the longest batch of another: non-preemptive scheduling.

    Args:
        parts: Who is on the device.
        shares_percent: Of each, by name.
        device: What there is.
        policy: How careful to be.
    """
    takers = _takers(parts, shares_percent, policy)
    runs = _runs(takers, _limit_percent(parts, shares_percent, device))
    return max((run.late(takers[n].within_us) for n, (run, _) in runs.items()), default=1.0)


def waits_in_turns(
    parts: Sequence[Part],
    shares_percent: Mapping[str, float],
    device: DeviceShares,
    policy: Policy,
) -> dict[str, Wait]:
    """How long batches of each wait for their turn, by name; without those that cannot be served.

    Args:
        parts: As of `late_in_turns`, like all others.
        shares_percent: Of each.
        device: What there is.
        policy: How careful to be.
    """
    takers = _takers(parts, shares_percent, policy)
    runs = _runs(takers, _limit_percent(parts, shares_percent, device))
    return {part.demand.name: NO_WAIT for part in parts} | {
        n: wait for n, (_, wait) in runs.items()
    }


def rows_in_turns(part: Part, share_percent: float, policy: Policy) -> int:
    """The largest batch that is in time after one of a single request: others wait for its end."""
    assert part.ladder is not None
    return part.ladder.rows_after_one(share_percent, part.demand.slo_us * (1 - policy.margin))


# ---- parts -----------------------------------------------------------------------------------


def _share(part: Part, wider: float, device: DeviceShares) -> float:
    """What it needs alone, or more of it while that is faster: it waits, and others wait for it."""
    assert part.ladder is not None
    need = part.need_percent(part.demand.busiest_per_s)
    enough = part.ladder.enough_percent(_FASTER)
    steps = math.ceil(max(need, min(need * wider, enough)) / device.step_percent - _ROUNDING)
    most = min(part.demand.bounds.max_percent, device.limit_percent)
    return max(part.floor_percent(device), min(most, steps * device.step_percent))


def _beside(
    parts: Sequence[Part], widest_percent: float, device: DeviceShares
) -> list[dict[str, float]]:
    """Shares of those without an SLO: what the widest leaves them, then their least."""
    others = [part for part in parts if not part.demand.slo_us]
    least = {part.demand.name: part.floor_percent(device) for part in others}
    most = dict(least)
    left_percent = device.limit_percent - widest_percent - sum(least.values())
    raise_smallest(most, [part for part in others if not part.demand.pinned], left_percent, device)
    return [most] if most == least else [most, least]


def _takers(
    parts: Sequence[Part], shares_percent: Mapping[str, float], policy: Policy
) -> dict[str, _Taker]:
    return {
        part.demand.name: _Taker(
            part.ladder,
            share := shares_percent[part.demand.name],
            rows_in_turns(part, share, policy),
            part.demand.busiest_per_s * policy.headroom,
            part.demand.slo_us * (1 - policy.margin),
        )
        for part in parts
        if part.promised and part.ladder is not None
    }


def _limit_percent(
    parts: Sequence[Part], shares_percent: Mapping[str, float], device: DeviceShares
) -> float:
    """What those have together that take turns: others may run all the time."""
    beside = sum(shares_percent[p.demand.name] for p in parts if not p.promised)
    return device.limit_percent - beside


def _runs(takers: Mapping[str, _Taker], limit_percent: float) -> dict[str, tuple[Prediction, Wait]]:
    """How each of them runs, and waits; nothing if somebody cannot be served."""
    if any(taker.share_percent > limit_percent + _ROUNDING for taker in takers.values()):
        return {}
    waits = dict.fromkeys(takers, NO_WAIT)
    for _ in range(_ROUNDS):
        runs = {}
        for name, taker in takers.items():
            runs[name] = _prediction(taker, waits[name])
            # Waits only grow: most that cannot work is seen in the first round.
            if runs[name].late(taker.within_us) > _HOPELESS:
                return {}
        if sum(takers[n].share_percent * _running(run) for n, run in runs.items()) > limit_percent:
            return {}
        waits = {name: _wait(name, takers, runs, waits, limit_percent) for name in takers}
    runs = {name: _prediction(taker, waits[name]) for name, taker in takers.items()}
    return {name: (run, waits[name]) for name, run in runs.items()}


def _prediction(taker: _Taker, wait: Wait) -> Prediction:
    return taker.ladder.prediction(taker.share_percent, taker.rows_max, taker.rate_per_s, wait)


def _running(run: Prediction) -> float:
    """The part of the time in which a batch runs."""
    return min(1.0, run.batches_per_s * run.batch_us / 1e6)


def _wait(
    name: str,
    takers: Mapping[str, _Taker],
    runs: Mapping[str, Prediction],
    waits: Mapping[str, Wait],
    limit_percent: float,
) -> Wait:
    """How long batches of one of them wait for their turn.

    Who runs is somewhere in its batch, so a time later it runs still with a chance that falls
    evenly. A batch waits on as long as those leave no room, or somebody is due before.
    """
    room = limit_percent - takers[name].share_percent
    others = [other for other in takers if other != name]
    if not others:  # they were unloaded, and its share is still on its way
        return NO_WAIT
    ahead = {}
    for other in others:
        part = min(1.0, runs[other].batches_per_s * waits[other].mean_us / 1e6)
        later_us = takers[other].within_us - takers[name].within_us
        fits = takers[other].share_percent <= room + _ROUNDING
        lasts_us = waits[other].mean_us + (0.0 if fits else runs[other].batch_us)
        ahead[other] = part * _due_before(later_us, waits[other]), lasts_us

    def waits_longer(time_us: float) -> float:
        running = [
            (
                takers[other].share_percent,
                _running(runs[other]) * max(0.0, 1 - time_us / runs[other].batch_us),
            )
            for other in others
        ]
        free = _chance_of_room(running, room, limit_percent)
        for chance, lasts_us in ahead.values():
            free *= 1 - (chance * max(0.0, 1 - time_us / lasts_us) if lasts_us else 0.0)
        return 1 - free

    most_us = max(*(runs[i].batch_us for i in others), *(us for _, us in ahead.values()))
    times = [most_us * step / _STEPS for step in range(_STEPS + 1)]
    longer = [waits_longer(time_us) for time_us in times]
    mean_us = most_us / _STEPS * (sum(longer) - longer[0] / 2)
    return Wait(mean_us, max(mean_us, _crossing(times, longer)))


def _crossing(times_us: Sequence[float], longer: Sequence[float]) -> float:
    """When no more than one percent waits longer."""
    for (one_us, before), (other_us, after) in pairwise(zip(times_us, longer, strict=True)):
        if after <= _LATE_MAX:
            part = (before - _LATE_MAX) / (before - after) if before > _LATE_MAX else 0.0
            return one_us + part * (other_us - one_us)
    return times_us[-1]


def _due_before(later_us: float, wait: Wait) -> float:
    """How likely somebody who waits is due first, with so much more time from the beginning."""
    return max(0.0, 1 - later_us / wait.p99_us) if later_us > 0 and wait.p99_us else 1.0


def _chance_of_room(
    others: Iterable[tuple[float, float]], room_percent: float, limit_percent: float
) -> float:
    """How likely what runs leaves room, of shares that run for a part of the time each.

    As if they did so independently, but for what cannot run at once.
    """
    sums = {0.0: 1.0}
    for share, part in others:
        after = {total: chance * (1 - part) for total, chance in sums.items()}
        for total, chance in sums.items():
            if total + share <= limit_percent + _ROUNDING:
                after[total + share] = after.get(total + share, 0.0) + chance * part
        sums = after
    room = sum(chance for total, chance in sums.items() if total <= room_percent + _ROUNDING)
    return room / sum(sums.values()) if room else 0.0
