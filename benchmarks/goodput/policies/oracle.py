"""The oracle: it knows the true tables and what will arrive, and its shares change at once.

For each function it knows the rate that each share can serve with 99 % in time, found by simulation
over the true table at the slow-down that busy neighbours cause. In every interval it takes the
arrivals that will come in it and in the next. If the devices can serve all of them, it divides so
that everybody has the same spare capacity; if not, dynamic programming over all legal divisions
finds the one that serves most. Functions stay on one device each; of many placements it takes the
one whose fullest device is least full. Of several safety factors it takes the one that does best on
the very traffic. Where rates are constant and there is one device, it also tries divisions that
never change, by simulating them, as long as moving share from one function to another helps. With
several devices this is a search, not a proof.
"""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.compiled import compiled
from benchmarks.goodput.policies.common import Fixed
from benchmarks.goodput.policies.fixed import best
from benchmarks.goodput.scene import Grant, Plan, Policy, Seen, Service
from benchmarks.goodput.simulate import (
    LOOK_US,
    STEP_PERCENT,
    Make,
    Setting,
    goodput_rps,
    run,
)
from benchmarks.goodput.tables import coupling, index, table_us

Floats = NDArray[np.float64]

SAFETY = (1.0, 0.9, 0.8, 0.65)
"""Parts of the capacity that are counted on."""
BUSY_PART = 0.8  # of the time, that neighbours are taken to be busy
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PLACEMENTS = 200
STEPS = round(100 / STEP_PERCENT)
LOOKS = 2
MOVES = (4, 2, 1)
_IN_TIME = 0.99
_SAMPLE = 3000
_HALVINGS = 9


# ---- what shares can serve -------------------------------------------------------------------


@cache
def capacities(gpu: str, model: str, slo_us: float, slowed: float) -> tuple[Floats, Floats]:
    """Requests a second that each step of share serves, and with which largest batch.

    Args:
        gpu: Whose tables.
        model: Of the function.
        slo_us: Of the function.
        slowed: By neighbours, for each percent of the device that they have.
    """
    table = table_us(gpu, model)
    sample = np.cumsum(np.random.default_rng(0).exponential(1.0, _SAMPLE))
    rates, batches = np.zeros(STEPS + 1), np.ones(STEPS + 1)
    for step in range(1, STEPS + 1):
        share = step * STEP_PERCENT
        times = table[:, index(share)] * (1 + slowed * BUSY_PART * (100 - share))
        for rows in BATCHES:
            if times[rows] > slo_us:
                break
            if (rate := _capacity(sample, times, rows, slo_us)) > rates[step]:
                rates[step], batches[step] = rate, rows
        if rates[step - 1] > rates[step]:
            rates[step], batches[step] = rates[step - 1], batches[step - 1]
    return rates, batches


@compiled
def _capacity(sample: Floats, times_us: Floats, rows_max: int, slo_us: float) -> float:
    """The highest rate of Poisson arrivals with which enough are in time."""
    low, high = 0.0, rows_max * 1e6 / times_us[rows_max]
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        if _in_time(sample * (1e6 / rate), times_us, rows_max, slo_us) >= _IN_TIME:
            low = rate
        else:
            high = rate
    return low


@compiled
def _in_time(arrivals_us: Floats, times_us: Floats, rows_max: int, slo_us: float) -> float:
    """The part that a greedy server answers in time."""
    at, free_us, good = 0, 0.0, 0
    while at < len(arrivals_us):
        begin_us = max(free_us, arrivals_us[at])
        end = at + 1
        while end < len(arrivals_us) and end - at < rows_max and arrivals_us[end] <= begin_us:
            end += 1
        free_us = begin_us + times_us[end - at]
        for i in range(at, end):
            good += free_us - arrivals_us[i] <= slo_us
        at = end
    return good / len(arrivals_us)


# ---- divisions -------------------------------------------------------------------------------


def even(capacity: Floats, rates: Floats) -> NDArray[np.int64] | None:
    """Steps of share with which everybody has the same spare capacity; None: it does not fit.

    Args:
        capacity: By function and step.
        rates: By function.
    """

    def steps(scale: float) -> NDArray[np.int64]:
        return np.array(
            [max(1, np.searchsorted(c, r * scale)) for c, r in zip(capacity, rates, strict=True)]
        )

    if steps(1.0).sum() > STEPS:
        return None
    low, high = 1.0, 16.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if steps(middle).sum() <= STEPS else (low, middle)
    return steps(low)


def most(capacity: Floats, rates: Floats) -> NDArray[np.int64]:
    """Steps of share that serve most requests together: dynamic programming, exact."""
    value = np.full(STEPS + 1, -np.inf)
    value[0] = 0.0
    choices = []
    for able, rate in zip(capacity, rates, strict=True):
        gains = np.minimum(able, rate)
        options = np.full((STEPS + 1, STEPS + 1), -np.inf)  # by sum, by own steps
        for own in range(1, STEPS + 1):
            options[own:, own] = value[: STEPS + 1 - own] + gains[own]
        choices.append(options.argmax(axis=1))
        value = options.max(axis=1)
    total, steps = int(value.argmax()), []
    for choice in reversed(choices):
        steps.append(int(choice[total]))
        total -= steps[-1]
    return np.array(steps[::-1])


class Oracle:
    """One way to be an oracle.

    Args:
        given: The setting, with its future.
        safety: Part of the capacity that is counted on.
    """

    name = "oracle"
    service: Service = "shares"
    prepared_us: float | None = 0.0
    looks = LOOKS

    def __init__(self, given: Setting, safety: float) -> None:
        workload = given.workload
        self._given, self._safety, self._at = given, safety, 0
        slowed = [
            float(np.mean([coupling(workload.gpu, asked.model, o.model) for o in others]))
            for i, asked in enumerate(workload.functions)
            if (others := [o for j, o in enumerate(workload.functions) if j != i] or [asked])
        ]
        curves = [
            capacities(workload.gpu, asked.model, asked.slo_ms * 1e3, by)
            for asked, by in zip(workload.functions, slowed, strict=True)
        ]
        self._capacity = np.array([capacity for capacity, _ in curves])
        self._batch = np.array([batch for _, batch in curves])
        self._rates = _future(given)
        self._on = self._placed()

    def start(self) -> Plan:
        """For the first interval."""
        return self._plan(self._rates[:, 0])

    def decide(self, seen: Seen) -> Plan | None:
        """For the next interval."""
        self._at += 1
        return self._plan(self._rates[:, min(self._at, self._rates.shape[1] - 1)])

    def mean_rates(self) -> Floats:
        """Over the whole run."""
        means: Floats = self._rates.mean(axis=1)
        return means

    def steps(self, rates: Floats) -> NDArray[np.int64]:
        """The division for some rates, in steps of share by function."""
        steps = np.ones(len(rates), np.int64)
        for device in range(len(self._given.scene.devices)):
            here = np.flatnonzero(self._on == device)
            if len(here):
                able = self._capacity[here] * self._safety
                fair = even(able, rates[here])
                steps[here] = most(able, rates[here]) if fair is None else fair
        return steps

    def plan_of(self, steps: NDArray[np.int64]) -> Plan:
        """A division, with the batches that go with it."""
        scene = self._given.scene
        return {
            function.name: [self._grant(i, scene.devices[self._on[i]], int(steps[i]))]
            for i, function in enumerate(scene.functions)
        }

    def _plan(self, rates: Floats) -> Plan:
        return self.plan_of(self.steps(rates))

    def _grant(self, function: int, device: str, step: int) -> Grant:
        share = step * STEP_PERCENT
        rows = int(self._batch[function, step])
        slo_us = self._given.scene.functions[function].slo_us
        return Grant(device, share, rows, shed_us=slo_us)

    def _placed(self) -> NDArray[np.int64]:
        """Worst fit of needs at high rates, largest first, and with random orders after that."""
        high = np.quantile(self._rates, 0.95, axis=1)
        need = np.array(
            [
                min(STEPS, max(1, int(np.searchsorted(able * self._safety, rate))))
                for able, rate in zip(self._capacity, high, strict=True)
            ]
        )
        rng = np.random.default_rng(self._given.seed)
        count, devices = len(need), len(self._given.scene.devices)
        best: tuple[int, NDArray[np.int64]] | None = None
        for attempt in range(PLACEMENTS if devices > 1 else 1):
            jitter = need * (1 + 0.3 * rng.random(count) * (attempt > 0))
            on, used = np.zeros(count, np.int64), np.zeros(devices, np.int64)
            for function in np.argsort(-jitter, kind="stable"):
                on[function] = used.argmin()
                used[on[function]] += need[function]
            if best is None or used.max() < best[0]:
                best = int(used.max()), on
        assert best is not None
        return best[1]


def _future(given: Setting) -> Floats:
    """Rates by function and interval: the larger of this one's and the next one's."""
    edges = np.arange(0, given.workload.seconds * 1e6 + 1, LOOKS * LOOK_US)
    rates = np.array([np.histogram(times, edges)[0] for times in given.arrivals])
    rates = rates * 1e6 / (LOOKS * LOOK_US)
    return np.maximum(rates, np.roll(rates, -1, axis=1))


def oracle(given: Setting) -> Policy:
    """The best of the oracles, and of a division that never changes where rates do not either."""
    variants: list[Make] = [partial(Oracle, safety=safety) for safety in SAFETY]
    if given.workload.kind != "dynamic" and len(given.scene.devices) == 1:
        climbed = _climbed(given)
        variants.append(lambda _: climbed)
    return best(given, variants)


def _climbed(given: Setting) -> Policy:
    """A division that no move of a few steps of share from one function to another improves.

    Every division on the way is simulated with the very traffic.
    """
    start = Oracle(given, 1.0)
    steps = start.steps(start.mean_rates())
    value = _value(given, start, steps)
    for move in MOVES:
        better = True
        while better:
            better = False
            for taker, giver in itertools.permutations(range(len(steps)), 2):
                tried = steps.copy()
                tried[taker] += move
                tried[giver] -= move
                if tried[giver] >= 1 and (found := _value(given, start, tried)) > value:
                    steps, value, better = tried, found, True
    return Fixed("oracle", "shares", start.plan_of(steps))


def _value(given: Setting, planner: Oracle, steps: NDArray[np.int64]) -> float:
    fixed = Fixed("oracle", "shares", planner.plan_of(steps))
    return goodput_rps(given.workload, run(given, lambda _: fixed))
