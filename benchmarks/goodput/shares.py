"""Service by shares: each server has its part of a device, and only neighbours disturb it.

The servers of a function take greedily from its one queue. Who is busy on the device when a batch
begins slows it down for all of its time.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.goodput.compiled import compiled, inlined
from benchmarks.goodput.queues import (
    count_batch,
    drop_expired,
    let_in,
    noise,
    take,
)
from benchmarks.goodput.state import PLACES, State


@compiled
def advance(state: State, from_us: float, until_us: float) -> None:
    """Begins every batch that can begin from one time until another."""
    functions = len(state.slo_us)
    starts = np.empty(functions)
    chosen = np.empty(functions, np.int64)
    for function in range(functions):
        starts[function], chosen[function] = _next_start(state, function, from_us, until_us)
    while True:
        function = int(np.argmin(starts))
        now_us = starts[function]
        if now_us >= until_us:
            return
        serve(state, function, chosen[function], now_us)
        starts[function], chosen[function] = _next_start(state, function, now_us, until_us)


@compiled
def _next_start(state: State, function: int, now_us: float, until_us: float) -> tuple[float, int]:
    """When and by whom the next batch is begun; whoever arrives before is let in."""
    server, servers = -1, 0
    for i in range(len(state.server_of)):
        if state.server_of[i] == function:
            servers += 1
            if server < 0 or state.free_us[i] < state.free_us[server]:
                server = i
    rows_max = state.rows_max[server] if server >= 0 else PLACES
    free_us = max(now_us, state.free_us[server]) if server >= 0 else math.inf
    while True:
        start_us = _start(state, function, free_us, rows_max)
        if state.next[function] >= state.end[function]:
            return start_us, server
        time_us = state.arrivals[state.next[function]]
        if time_us > start_us or time_us >= until_us:
            return start_us, server
        let_in(state, function, servers)


@inlined
def _start(state: State, function: int, free_us: float, rows_max: int) -> float:
    """When the batch of those who wait may begin: when it is full, or has waited long enough."""
    length, head = state.length[function], state.head[function]
    if length == 0:
        return math.inf
    if length >= rows_max:
        return max(free_us, float(state.queue[function, (head + rows_max - 1) % PLACES]))
    return max(free_us, float(state.queue[function, head] + state.limits[function, 1]))


@compiled
def serve(state: State, function: int, server: int, now_us: float) -> None:
    """Begins a batch, whose end is known at once."""
    drop_expired(state, function, now_us)
    rows = min(state.length[function], state.rows_max[server])
    if rows == 0:
        return
    took_us = state.table_us[function, rows, state.place[server]] * noise(state)
    took_us *= _slowed(state, server, now_us)
    state.begun_us[server], state.free_us[server] = now_us, now_us + took_us
    state.rows[server] = rows
    part = state.share[server] / 100
    count_batch(state, function, state.device_of[server], part, rows, now_us, took_us)
    take(state, function, rows, now_us + took_us)


@inlined
def _slowed(state: State, server: int, now_us: float) -> float:
    """The factor by which those slow a batch down who are busy on the same device now."""
    factor = 1.0
    for other in range(len(state.server_of)):
        if (
            other != server
            and state.device_of[other] == state.device_of[server]
            and state.free_us[other] > now_us
        ):
            by = state.coupling[state.server_of[server], state.server_of[other]]
            factor += by * state.share[other]
    return factor
