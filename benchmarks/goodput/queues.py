"""What all service models have in common: who is let in, what a batch takes, what is counted."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.goodput.compiled import compiled, inlined
from benchmarks.goodput.state import (
    ANSWERED,
    ARRIVED,
    EXPIRED,
    LATE,
    PLACES,
    QUEUE_MAX,
    SHED,
    State,
)

SMOOTHING = 8
"""Batches that count in the estimate, as in the product's pump."""


@compiled
def seed(value: int) -> None:
    """Seeds the compiled code's own random numbers."""
    np.random.seed(value)


@inlined
def window(state: State, time_us: float) -> int:
    """The window of a time; what comes after the end belongs to the last."""
    return int(min(int(time_us / state.window_us), state.counts.shape[0] - 1))


@inlined
def noise(state: State) -> float:
    """A factor for the time of a batch, with a median of 1."""
    return math.exp(state.noise * np.random.standard_normal()) if state.noise > 0 else 1.0


@inlined
def first_us(state: State, function: int) -> float:
    """When the first request that waits arrived, or the next will."""
    if state.length[function] > 0:
        return float(state.queue[function, state.head[function]])
    if state.next[function] < state.end[function]:
        return float(state.arrivals[state.next[function]])
    return math.inf


@compiled
def let_in(state: State, function: int, servers: int, in_batch: int = 0) -> None:
    """Takes the next arrival: into the queue, or turned away.

    It is turned away when the queue is full, or when it would be late by the product's own
    prediction: the batch under way, and as many as the place in the queue takes, each as long as
    batches took of late.

    Args:
        state: Of the simulation.
        function: Whose.
        servers: How many take from this queue.
        in_batch: How many at its head wait no more: they are in a batch.
    """
    time_us = state.arrivals[state.next[function]]
    state.next[function] += 1
    ahead = state.length[function] - in_batch
    counts = state.counts[window(state, time_us), function]
    counts[ARRIVED] += 1
    rows_max, _, shed_us = state.limits[function]
    if shed_us > 0 and ahead > 0:
        turns = math.ceil(math.ceil((ahead + 1) / rows_max) / max(1, servers))
        if (turns + 1) * state.estimate_us[function, 0] > shed_us:
            counts[SHED] += 1
            return
    if ahead >= QUEUE_MAX:
        counts[SHED] += 1
        return
    place = state.head[function] + state.length[function]
    state.queue[function, place % PLACES] = time_us
    state.length[function] += 1


@compiled
def drop_expired(state: State, function: int, now_us: float) -> None:
    """Removes those whose clients have given up."""
    while state.length[function] > 0:
        time_us = state.queue[function, state.head[function]]
        if now_us - time_us <= state.expire_us[function]:
            return
        state.counts[window(state, time_us), function, EXPIRED] += 1
        state.head[function] = (state.head[function] + 1) % PLACES
        state.length[function] -= 1


@compiled
def answer(state: State, function: int, arrived_us: float, done_us: float) -> None:
    """Counts an answer."""
    counts = state.counts[window(state, arrived_us), function]
    counts[ANSWERED] += 1
    state.batches[function, 3] += done_us - arrived_us
    if done_us - arrived_us > state.slo_us[function]:
        counts[LATE] += 1


@compiled
def take(state: State, function: int, rows: int, done_us: float) -> None:
    """Answers the first requests of a queue: their batch is done at `done_us`."""
    for _ in range(rows):
        answer(state, function, state.queue[function, state.head[function]], done_us)
        state.head[function] = (state.head[function] + 1) % PLACES
    state.length[function] -= rows


@compiled
def count_batch(
    state: State,
    function: int,
    device: int,
    part: float,
    rows: int,
    start_us: float,
    took_us: float,
) -> None:
    """Counts a batch; `part` of the device is its own for that time."""
    estimate = state.estimate_us[function]
    if estimate[0] == 0:
        estimate[0] = estimate[1]
    estimate[0] += (estimate[1] - estimate[0]) / SMOOTHING
    estimate[1] = took_us
    state.sizes[function, rows] += 1
    state.batches[function, 0] += 1
    state.batches[function, 1] += rows
    state.batches[function, 2] += took_us
    if start_us < state.window_us * state.counts.shape[0]:  # what is served after the end is not
        state.busy_us[window(state, start_us), device] += took_us * part
