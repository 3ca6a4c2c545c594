"""What a decision is made of: what clients ask, what devices have, what a function gets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from gslice.core.types import ShareBounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.control.division import Part
    from gslice.control.latency import LatencyModel
    from gslice.control.waiting import Wait
    from gslice.core.access import ShareQuota

PRIORITIES = ("high", "normal", "low")
"""In the order in which they are served when not everybody can be."""

_RATE_MIN_PER_S = 1.0


@dataclass(frozen=True)
class Demand:
    """What clients ask of a function, and what was promised to them.

    Attributes:
        name: The function's.
        rate_per_s: Requests, on average.
        peak_per_s: Requests, when most come; at least the average.
        slo_us: Promised latency at the 99th percentile; 0: no promise is made.
        rows_per_request: Mean rows of a request.
        rows_max: Largest batch, in rows.
        instances: Among which its share of a device is divided equally.
        priority: A member of `PRIORITIES`.
        exclusive: It shares no device.
        bounds: Of its share.
        models: What its batches take, by device; devices without one are not measured yet.
        devices: Where it may run; empty: anywhere.
        replicas_min: On how many of them it is at a time at least, if there are so many.
        replicas_max: And at most.
        quota: Of a tenant, for which its share counts; None: it counts for none.
    """

    name: str
    rate_per_s: float
    slo_us: float = 0.0
    peak_per_s: float = 0.0
    rows_per_request: float = 1.0
    rows_max: int = 1
    instances: int = 1
    priority: str = "normal"
    exclusive: bool = False
    bounds: ShareBounds = field(default_factory=ShareBounds)
    models: Mapping[str, LatencyModel] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    replicas_min: int = 1
    replicas_max: int = 64
    quota: ShareQuota | None = None

    @cached_property
    def planned_per_s(self) -> float:
        """The rate for which there must be room: whoever comes after a rest finds some, too."""
        return max(self.rate_per_s, _RATE_MIN_PER_S)

    @cached_property
    def busiest_per_s(self) -> float:
        """The rate for which there should be room."""
        return max(self.planned_per_s, self.peak_per_s)

    def part(self, fraction: float) -> Demand:
        """The same function with a part of its requests."""
        if fraction == 1.0:
            return self
        rate, peak = self.rate_per_s * fraction, self.peak_per_s * fraction
        return replace(self, rate_per_s=rate, peak_per_s=peak)

    @property
    def pinned(self) -> bool:
        """Whether an operator fixed its share, or it has all that there is."""
        return self.exclusive or self.bounds.min_percent == self.bounds.max_percent


@dataclass(frozen=True)
class DeviceShares:
    """What there is to divide of a device.

    Attributes:
        name: Its name.
        limit_percent: Most that all functions together may get.
        step_percent: Shares are decided in multiples of it.
        rest_s: Until it is divided anew although nobody needs it: changes are not free.
        changing: Shares on it are on their way to what was decided before. Until they are there it
            is not divided anew: decisions come faster than shadows.
        turns: Whether its functions could take turns: their shares are worth the same beyond 100.
    """

    name: str
    limit_percent: float = 100.0
    step_percent: float = 2.5
    rest_s: float = 10.0
    changing: bool = False
    turns: bool = True


@dataclass(frozen=True)
class Allotment:
    """What a function gets of one device; `gslice.control.explain` says why.

    Attributes:
        device: The device's name.
        share_percent: Of the device, for all its instances there together.
        batch_rows_max: Largest batch that keeps the SLO; 0: as the model allows.
        rate_per_s: Requests that come here, as planned for.
        capacity_per_s: Requests that this share serves within the SLO.
        shed_us: Only what should be answered within that time is admitted; 0: everything is.
        effective_percent: What serves until the share is in effect; 0: that is so at once.
        turn: How long batches wait where functions take turns; None: they do not.
        part: What it was decided of; None: it was not decided, but is so.
        replicas: How many devices it is about; more than one only where `together` made it.
    """

    device: str
    share_percent: float
    batch_rows_max: int = 0
    rate_per_s: float = 0.0
    capacity_per_s: float = 0.0
    shed_us: float = 0.0
    effective_percent: float = 0.0
    turn: Wait | None = None
    part: Part | None = field(default=None, repr=False)
    replicas: int = 1

    @property
    def turns(self) -> bool:
        """Whether shares on its device may add up to more than it has: what runs must not."""
        return self.turn is not None

    @property
    def short(self) -> bool:
        """Whether the share is too small for the SLO when most requests come."""
        if self.part is None or self.part.ladder is None or not self.part.demand.slo_us:
            return False
        return self.capacity_per_s < self.part.demand.busiest_per_s


@dataclass(frozen=True)
class Policy:
    """How careful decisions are.

    Attributes:
        margin: Part of an SLO that is kept free for contention and for what the model misses.
        shed_margin: The same for what is accepted while not all can be: live times are known then.
        headroom: A share is sought for the rate times this.
        headroom_max: What is left over first raises everybody's capacity to the rate times this.
        dead_band: Part of a share below which a change that nobody needs is not worth it.
        packing: `fewest` devices, or most `headroom`.
        turns: Functions may take turns on a device where shares side by side do not keep all SLOs.
        turns_held_s: How long turns that began or ended stay so, whatever estimates say.
        turns_seek_s: Where no turns were found that keep all SLOs, none are sought for so long.
    """

    margin: float = 0.15
    shed_margin: float = 0.05
    headroom: float = 1.1
    headroom_max: float = 2.0
    dead_band: float = 0.25
    packing: str = "headroom"
    turns: bool = False
    turns_held_s: float = 5.0
    turns_seek_s: float = 2.0


def together(demand: Demand, allotments: Sequence[Allotment]) -> Allotment:
    """What a function gets of all its devices, as one: the share is the same on each.

    Args:
        demand: The whole of it.
        allotments: Of each device, at least one.
    """
    first = allotments[0]
    if len(allotments) == 1:
        return first
    rows = [each.batch_rows_max for each in allotments if each.batch_rows_max]
    part = None if first.part is None else replace(first.part, demand=demand)
    return replace(
        first,
        device=", ".join(each.device for each in allotments),
        share_percent=min(each.share_percent for each in allotments),
        batch_rows_max=min(rows, default=0),
        rate_per_s=sum(each.rate_per_s for each in allotments),
        capacity_per_s=sum(each.capacity_per_s for each in allotments),
        shed_us=max(each.shed_us for each in allotments),
        part=part,
        replicas=len(allotments),
    )
