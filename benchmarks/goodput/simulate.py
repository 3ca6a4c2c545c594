"""One run of the simulation: traffic, servers, and a policy that is asked once an interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput import crowd, edf, profile, queues, shares, turns
from benchmarks.goodput.granting import Granting
from benchmarks.goodput.scene import Policy, Scene, Seen, Traffic
from benchmarks.goodput.state import (
    ANSWERED,
    EXPIRED,
    LATE,
    PLACES,
    State,
    fresh,
)
from benchmarks.goodput.tables import coupling, table_us
from benchmarks.goodput.traffic import arrivals_us
from benchmarks.goodput.workloads import Workload

LOOK_US = 250_000.0
PREPARE_US = 2_000_000.0
STEP_PERCENT = 2.5
EXPIRE_US = 1_000_000.0
NOISE = 0.03
_LONG_US = 1e9
_ADVANCE = {
    "shares": shares.advance,
    "edf": edf.advance,
    "turns": turns.advance,
    "crowd": crowd.advance,
}


@dataclass(frozen=True)
class Run:
    """What a run gave.

    Attributes:
        counts: By window of the arrival, function and column of `state`.
        busy_us: By window and device.
        resizes: How many shares changed, and moves from device to device.
        control_s: Processor time of the policy.
        seconds: Simulated.
    """

    counts: NDArray[np.int64]
    busy_us: NDArray[np.float64]
    resizes: int
    control_s: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """A workload with its traffic, the same for every policy.

    Attributes:
        workload: The workload.
        seed: Of traffic, noise and profile.
        arrivals: Times by function.
        scene: What policies know.
    """

    workload: Workload
    seed: int
    arrivals: list[NDArray[np.float64]]
    scene: Scene


Make = Callable[[Setting], Policy]


def setting(workload: Workload, seed: int) -> Setting:
    """Draws the traffic and the profile of a run."""
    rng = np.random.default_rng([seed, 1])
    arrivals = [
        arrivals_us(workload.rates_per_s(asked), workload.bursts, rng)
        for asked in workload.functions
    ]
    scene = Scene(
        functions=profile.functions(workload, NOISE, np.random.default_rng([seed, 2])),
        devices=[f"sim:{i}" for i in range(workload.devices)],
        step_percent=STEP_PERCENT,
        look_us=LOOK_US,
    )
    return Setting(workload, seed, arrivals, scene)


def run(given: Setting, make: Make, seconds: float | None = None) -> Run:
    """Serves a workload under a policy.

    Args:
        given: The workload.
        make: Makes the policy.
        seconds: Only the beginning; None: all of it.
    """
    policy = make(given)
    seconds = min(seconds or given.workload.seconds, given.workload.seconds)
    windows = round(seconds * 1e6 / LOOK_US)
    state = _state(given, windows)
    granting = Granting(given.scene, policy.service)
    prepare_us = PREPARE_US if policy.prepared_us is None else policy.prepared_us
    advance = _ADVANCE[policy.service]
    queues.seed(given.seed)
    spent_s = -time.process_time()
    plan = policy.start()
    spent_s += time.process_time()
    state = granting.begin(state, plan)
    for window in range(windows):
        now_us, until_us = window * LOOK_US, (window + 1) * LOOK_US
        for due_us in granting.due(now_us, until_us):
            advance(state, now_us, due_us)
            now_us = due_us
            state = granting.swap(state, now_us)
        advance(state, now_us, until_us)
        if not policy.looks or (window + 1) % policy.looks:
            continue
        seen = _seen(given, state, granting, until_us)
        spent_s -= time.process_time()
        decided = policy.decide(seen)
        spent_s += time.process_time()
        if decided is not None:
            granting.decide(state, decided, until_us, prepare_us)
    _drain(state, advance, windows * LOOK_US)
    return Run(state.counts, state.busy_us, granting.resizes, spent_s, seconds)


def goodput_rps(workload: Workload, ran: Run) -> float:
    """Requests answered within their SLO, for each second outside warm-ups."""
    kept = measured(workload, len(ran.counts))
    counts = ran.counts[kept].sum(axis=(0, 1))
    return float(counts[ANSWERED] - counts[LATE]) / (float(kept.sum()) * LOOK_US / 1e6)


def measured(workload: Workload, windows: int) -> NDArray[np.bool_]:
    """Which windows are outside warm-ups."""
    return np.array([not _warming(workload, window) for window in range(windows)])


def _warming(workload: Workload, window: int) -> bool:
    at_s = window * LOOK_US / 1e6
    return any(begin <= at_s < end for begin, end in workload.warm_ups_s)


def _state(given: Setting, windows: int) -> State:
    workload = given.workload
    models = [asked.model for asked in workload.functions]
    end_us = windows * LOOK_US
    return fresh(
        [times[: np.searchsorted(times, end_us)] for times in given.arrivals],
        np.array([asked.slo_ms * 1e3 for asked in workload.functions]),
        np.full(len(models), EXPIRE_US),
        [table_us(workload.gpu, model) for model in models],
        np.array([[coupling(workload.gpu, one, other) for other in models] for one in models]),
        devices=workload.devices,
        windows=windows,
        window_us=LOOK_US,
        noise=NOISE,
    )


def _seen(given: Setting, state: State, granting: Granting, now_us: float) -> Seen:
    arrived = state.next - np.concatenate([[0], state.end[:-1]])
    traffic = {
        function.name: Traffic(
            arrived=int(arrived[i]),
            answered=int(state.batches[i, 1]),
            batches=int(state.batches[i, 0]),
            rows=int(state.batches[i, 1]),
            busy_us=float(state.batches[i, 2]),
            sizes=state.sizes[i].copy(),
        )
        for i, function in enumerate(given.scene.functions)
    }
    return Seen(now_us, traffic, granting.granted, granting.preparing)


def _drain(state: State, advance: Callable[[State, float, float], None], end_us: float) -> None:
    """Answers what still waits; what nobody serves expires."""
    advance(state, end_us, end_us + _LONG_US)
    for function in range(len(state.slo_us)):
        while state.length[function] > 0:
            at = state.queue[function, state.head[function]]
            state.counts[queues.window(state, at), function, EXPIRED] += 1
            state.head[function] = (state.head[function] + 1) % PLACES
            state.length[function] -= 1
