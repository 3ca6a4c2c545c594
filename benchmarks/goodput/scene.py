"""The nouns: functions and devices, what a policy sees of them and what it grants."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gslice.control.latency import Measurement

Service = Literal["shares", "edf", "turns", "crowd"]
"""How devices serve: by shares; by shares that may take turns, earliest deadline first; one batch
of one function at a time; everybody at once."""


@dataclass(frozen=True)
class Function:
    """What a policy knows of a function.

    Attributes:
        name: Its name.
        slo_us: Latency within which an answer counts.
        rows_max: Largest batch.
        rate_hint_per_s: What its operator expects; only placements by baselines use it.
        profile: Measured batch times: noisy, at a few points, alone on the device.
    """

    name: str
    slo_us: float
    rows_max: int
    rate_hint_per_s: float
    profile: Sequence[Measurement]


@dataclass(frozen=True)
class Scene:
    """What there is to serve, and on what.

    Attributes:
        functions: In a fixed order.
        devices: Their names; all are alike.
        step_percent: Shares are multiples of it.
        look_us: Between two looks.
    """

    functions: Sequence[Function]
    devices: Sequence[str]
    step_percent: float
    look_us: float


@dataclass(frozen=True)
class Grant:
    """What a function gets of one device.

    Attributes:
        device: The device's name.
        share_percent: Of the device.
        batch_rows_max: Largest batch.
        delay_us: How long a batch that is not full waits.
        shed_us: Only what is predicted to be answered within that time is admitted; 0: all is.
        turns: Shares of this device may add up to more than there is; functions take turns.
    """

    device: str
    share_percent: float
    batch_rows_max: int
    delay_us: float = 0.0
    shed_us: float = 0.0
    turns: bool = False


Plan = Mapping[str, Sequence[Grant]]
"""By function. Batch limits and shedding change at once, shares after their preparation."""


@dataclass(frozen=True)
class Traffic:
    """What happened to one function. Counts only grow.

    Attributes:
        arrived: Requests.
        answered: Those that were put into a batch.
        batches: How many there were.
        rows: Of all batches.
        busy_us: Time of all batches.
        sizes: How many batches there were of each number of rows.
    """

    arrived: int
    answered: int
    batches: int
    rows: int
    busy_us: float
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """What is observed at a look.

    Attributes:
        now_us: The time.
        traffic: By function.
        granted: What is in effect.
        preparing: Devices for which new shares are being prepared.
    """

    now_us: float
    traffic: Mapping[str, Traffic]
    granted: Plan = field(default_factory=dict)
    preparing: Collection[str] = frozenset()


class Policy(Protocol):
    """Decides who gets what. One instance serves one run.

    Attributes:
        name: In the rows.
        service: What it needs of devices.
        prepared_us: How long new shares take to prepare; None: as long as everybody's.
        looks: It is asked at every look of so many; 0: never again after the start.
    """

    name: str
    service: Service
    prepared_us: float | None
    looks: int

    def start(self) -> Plan:
        """Before the first request."""
        ...

    def decide(self, seen: Seen) -> Plan | None:
        """At a look; None: nothing changes."""
        ...
