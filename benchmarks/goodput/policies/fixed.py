"""Baselines that decide once: equal shares, the best static division, time sharing, no control.

All but `equal` are given what no operator has: the best of several variants for the very traffic
that they are then measured with. Time sharing switches for nothing, and batches that run together
uncontrolled disturb each other no more than they do behind limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from benchmarks.goodput.policies.common import Fixed, batch_within, grant, models, placed
from benchmarks.goodput.scene import Function, Plan, Policy, Scene, Service
from benchmarks.goodput.simulate import Make, Setting, goodput_rps, run
from gslice.control.latency import LatencyModel

GRID_PERCENT = 10.0
GRID_MAX = 150
BATCH_PARTS = (0.5, 0.25, 0.12, 0.06)
SCALES = (0.7, 1.0, 1.4)
TRIAL_S = 300.0


def equal(given: Setting) -> Policy:
    """The same share for everybody on a device."""
    scene, fitted = given.scene, models(given.scene)
    on = placed(scene, fitted)
    together = {device: list(on.values()).count(device) for device in scene.devices}

    def share(name: str) -> float:
        steps = 100.0 / together[on[name]] // scene.step_percent
        return steps * scene.step_percent

    plan = {f.name: [grant(f, fitted[f.name], on[f.name], share(f.name))] for f in scene.functions}
    return Fixed("equal", "shares", plan)


def timeshare(given: Setting) -> Policy:
    """One batch at a time with the whole device, round robin."""
    return best(given, _whole(given, "timeshare"))


def uncontrolled(given: Setting) -> Policy:
    """Everybody at once with the whole device."""
    return best(given, _whole(given, "uncontrolled"))


def static(given: Setting) -> Policy:
    """The best of a grid of divisions, each with and without shedding.

    Up to `GRID_MAX` divisions of a device are a grid of `GRID_PERCENT`. Where there are more, as
    with several devices, shares are what the functions need at multiples of their expected rates.
    """
    return best(given, _divisions(given))


def best(given: Setting, variants: Iterable[Make]) -> Policy:
    """The variant with most goodput on the very traffic, or on its beginning if it is long."""
    tried = [
        (goodput_rps(given.workload, run(given, variant, TRIAL_S)), -i, variant)
        for i, variant in enumerate(variants)
    ]
    return max(tried, key=lambda each: each[:2])[2](given)


def _whole(given: Setting, name: str) -> Iterator[Make]:
    scene, fitted = given.scene, models(given.scene)
    on = placed(scene, fitted)
    for part in BATCH_PARTS:
        plan = {
            f.name: [grant(f, fitted[f.name], on[f.name], 100.0, part=part)]
            for f in scene.functions
        }
        service: Service = "turns" if name == "timeshare" else "crowd"
        yield partial(_fixed, name, service, plan)


def _divisions(given: Setting) -> Iterator[Make]:
    scene, fitted = given.scene, models(given.scene)
    on = placed(scene, fitted)
    count = len(scene.functions)
    steps = round(100.0 / GRID_PERCENT)
    grid: Sequence[Sequence[float]] = ()
    if len(scene.devices) == 1 and count <= steps:
        grid = [[g * GRID_PERCENT for g in cut] for cut in _cuts(steps, count)]
    if not 0 < len(grid) <= GRID_MAX:
        grid = [_needed(scene, fitted, on, scale) for scale in SCALES]
    for shares in grid:
        for sheds in (False, True):
            plan = {
                f.name: [grant(f, fitted[f.name], on[f.name], share, sheds=sheds)]
                for f, share in zip(scene.functions, shares, strict=True)
            }
            yield partial(_fixed, "static", "shares", plan)


def _fixed(name: str, service: Service, plan: Plan, given: Setting) -> Policy:
    return Fixed(name, service, plan)


def _cuts(steps: int, count: int) -> Iterator[list[int]]:
    """All ways to cut `steps` into `count` parts of at least one."""
    for bars in itertools.combinations(range(1, steps), count - 1):
        edges = (0, *bars, steps)
        yield [right - left for left, right in itertools.pairwise(edges)]


def _needed(
    scene: Scene, fitted: dict[str, LatencyModel], on: dict[str, str], scale: float
) -> list[float]:
    """Shares in proportion to need at a multiple of the expected rates; they fill each device."""
    step = scene.step_percent
    need = {f.name: _need_percent(f, fitted[f.name], scale, step) for f in scene.functions}
    shares = []
    for function in scene.functions:
        on_device = [need[name] for name, device in on.items() if device == on[function.name]]
        part = need[function.name] / sum(on_device)
        spare = 100.0 - step * len(on_device)
        shares.append(step + part * spare // step * step)
    return shares


def _need_percent(function: Function, model: LatencyModel, scale: float, step: float) -> float:
    """The least share whose largest batches within half the SLO serve a multiple of the rate."""
    share = step
    while share < 100.0:
        rows = batch_within(function, model, share, 0.5)
        if rows * 1e6 / model.median_us(rows, share) >= scale * function.rate_hint_per_s:
            break
        share += step
    return share
