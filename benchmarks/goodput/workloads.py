"""What is asked: functions with their SLOs, and how many requests come when.

`twelve` and `pair` are the published comparisons of iGniter and of GSLICE's re-implementations. All
others were made for this benchmark. Rates of the mixes were set by what the oracle can serve: it
loses next to nothing of the steady ones, somewhat less than one percent of the contended ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.traffic import CELL_US, MMPP, POISSON, Bursts

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]
"""A factor of the mean rate, by the time in seconds."""
Kind = Literal["steady", "contended", "dynamic", "overload"]

WARM_UP_S = 10.0
AFTER_STEP_S = 5.0


def _constant(times_s: Floats) -> Floats:
    return np.ones(len(times_s))


@dataclass(frozen=True)
class Asked:
    """A function and its traffic.

    Attributes:
        name: Its name.
        model: Whose table holds.
        slo_ms: Its SLO.
        rate_per_s: Mean rate of requests of one row.
        curve: How it changes.
    """

    name: str
    model: str
    slo_ms: float
    rate_per_s: float
    curve: Curve = _constant


@dataclass(frozen=True)
class Workload:
    """A run.

    Attributes:
        name: In the rows.
        kind: `steady` and `contended` have constant rates, the latter near what a perfect division
            serves; those of `dynamic` ones change; `overload` passes what can be served.
        gpu: A member of `tables.GPUS`.
        devices: How many.
        functions: What is asked.
        seconds: How long.
        bursts: How bursty.
        warm_ups_s: Windows that are shown apart: the beginning, and after each step.
    """

    name: str
    kind: Kind
    gpu: str
    devices: int
    functions: tuple[Asked, ...]
    seconds: float
    bursts: Bursts = POISSON
    warm_ups_s: tuple[tuple[float, float], ...] = ((0.0, WARM_UP_S),)

    def rates_per_s(self, asked: Asked) -> Floats:
        """The mean rate in each cell of `CELL_US`."""
        cells = round(self.seconds * 1e6 / CELL_US)
        times_s = (np.arange(cells, dtype=np.float64) + 0.5) * (CELL_US / 1e6)
        return asked.rate_per_s * asked.curve(times_s)


def step(at_s: float, factor: float) -> Curve:
    """A rate that is multiplied once."""
    return lambda t: np.where(t < at_s, 1.0, factor)


def pulse(begin_s: float, end_s: float, factor: float) -> Curve:
    """A rate that is multiplied for a while."""
    return lambda t: np.where((t >= begin_s) & (t < end_s), factor, 1.0)


def day(period_s: float, swing: float, phase: float) -> Curve:
    """A sine: a day, made shorter."""
    return lambda t: 1.0 + swing * np.sin(2 * np.pi * (t / period_s + phase))


# ---- the list --------------------------------------------------------------------------------

_TWELVE = {
    "alexnet": ((10, 1000), (15, 500), (20, 2000)),
    "resnet50": ((10, 400), (20, 600), (30, 200)),
    "vgg19": ((20, 300), (30, 400), (40, 200)),
    "ssd": ((30, 200), (40, 100), (50, 300)),
}

_MIX = (
    Asked("resnet50", "resnet50", 25, 500),
    Asked("mobilenet", "mobilenet", 20, 700),
    Asked("vgg19", "vgg19", 30, 300),
    Asked("inception", "inception", 40, 150),
    Asked("densenet121", "densenet121", 50, 80),
    Asked("resnet101", "resnet101", 50, 60),
    Asked("vgg16", "vgg16", 40, 120),
)


def _mix(count: int, load: float, curves: Iterable[Curve] = ()) -> tuple[Asked, ...]:
    """The first models of the mix, at a multiple of their rates."""
    bent = [*curves, *[_constant] * count]
    return tuple(
        replace(asked, rate_per_s=asked.rate_per_s * load, curve=curve)
        for asked, curve in zip(_MIX[:count], bent, strict=False)
    )


_TIGHT = (
    Asked("vgg19", "vgg19", 10, 80),
    Asked("vgg16-a", "vgg16", 9, 80),
    Asked("vgg16-b", "vgg16", 9, 80),
    Asked("resnet50", "resnet50", 14, 80),
)
"""SLOs of about twice the latency at the knee: a large share is needed, for a short time."""


def _hour() -> tuple[Asked, ...]:
    """Sixty functions, of small ones more than of large ones, each with its own day."""
    rng = np.random.default_rng(60)
    functions = []
    for i in range(60):
        like = _MIX[int(rng.choice(len(_MIX), p=(0.2, 0.24, 0.1, 0.18, 0.12, 0.08, 0.08)))]
        rate = like.rate_per_s * HOUR_LOAD * float(rng.lognormal(-0.18, 0.6))
        curve = day(3600.0, float(rng.uniform(0.2, 0.5)), float(rng.random()))
        slo_ms = like.slo_ms * float(rng.choice((1.5, 2.0, 3.0)))
        functions.append(Asked(f"{like.name}-{i}", like.model, slo_ms, rate, curve))
    return tuple(functions)


STEADY_LOADS = {4: 1.0, 5: 1.0, 6: 0.9, 7: 0.8}
CONTENDED_LOADS = {4: 1.3, 5: 1.2, 7: 1.0}
HOUR_LOAD = 0.45
OVERLOADS = (1.0, 1.5, 2.0, 3.0, 4.0)


def workloads() -> dict[str, Workload]:
    """All of them, by name."""
    twelve = tuple(
        Asked(f"{model}-{slo_ms}", model, slo_ms, rate)
        for model, asked in _TWELVE.items()
        for slo_ms, rate in asked
    )
    pair = (Asked("ssd", "ssd", 25, 150), Asked("vgg19", "vgg19", 40, 200))
    after_step = ((0.0, WARM_UP_S), (60.0, 60.0 + AFTER_STEP_S))
    steps: list[Curve] = [step(60, 2.0), _constant, step(60, 0.5)]
    days = [day(300, 0.5, i / 5) for i in range(5)]
    made = [
        Workload("twelve", "steady", "V100", 8, twelve, 60),
        Workload("pair", "contended", "V100", 1, pair, 60),
        *(
            Workload(f"mix{n}", "steady", "A100", 1, _mix(n, load), 60)
            for n, load in STEADY_LOADS.items()
        ),
        *(
            Workload(f"contended{n}", "contended", "A100", 1, _mix(n, load), 60)
            for n, load in CONTENDED_LOADS.items()
        ),
        Workload("tight", "contended", "A100", 1, _TIGHT, 60),
        Workload("step", "dynamic", "A100", 1, _mix(4, 0.8, steps), 120, POISSON, after_step),
        Workload("diurnal", "dynamic", "A100", 1, _mix(5, 0.75, days), 600),
        Workload("burst", "dynamic", "A100", 1, _mix(4, 0.7), 120, MMPP),
        Workload("pulse", "dynamic", "A100", 1, _mix(4, 0.7, [pulse(60, 75, 2.0)]), 120),
        *(
            Workload(f"overload-{n:g}x", "overload", "A100", 1, _mix(5, 1.2 * n), 60)
            for n in OVERLOADS
        ),
        Workload("hour", "dynamic", "A100", 8, _hour(), 3600, MMPP),
    ]
    return {workload.name: workload for workload in made}
