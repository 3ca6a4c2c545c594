"""Uncontrolled sharing: all functions of a device run at once, and each batch gets what is left.

Processor sharing: with n batches running each has a share of 100 / n %, and is slowed down by the
others as it would be by neighbours with that share. `free_us` of a server is how much of its batch
is left, in times of a batch without noise; `rows` is 0 while it has none.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.goodput.compiled import compiled, inlined
from benchmarks.goodput.queues import (
    count_batch,
    drop_expired,
    first_us,
    let_in,
    noise,
    take,
    window,
)
from benchmarks.goodput.state import State

_DONE = 1e-9


@compiled
def advance(state: State, from_us: float, until_us: float) -> None:
    """Serves everything from one time until another."""
    for device in range(state.busy_us.shape[1]):
        servers = np.flatnonzero(state.device_of == device)
        if len(servers) > 0:
            _advance(state, device, servers, from_us, until_us)


@compiled
def _advance(
    state: State, device: int, servers: np.ndarray, from_us: float, until_us: float
) -> None:
    now_us = from_us
    times_us = np.empty(len(servers))
    while True:
        running = _times(state, servers, times_us)
        next_us = until_us
        for i in range(len(servers)):
            server = servers[i]
            if state.rows[server] > 0:
                event_us = now_us + state.free_us[server] * times_us[i]
            else:
                event_us = max(now_us, first_us(state, state.server_of[server]))
            next_us = min(next_us, event_us)
        for i in range(len(servers)):
            if state.rows[servers[i]] > 0:
                state.free_us[servers[i]] -= (next_us - now_us) / times_us[i]
        if running and now_us < state.window_us * state.counts.shape[0]:
            state.busy_us[window(state, now_us), device] += next_us - now_us
        now_us = next_us
        if now_us >= until_us:
            return
        for server in servers:
            if state.rows[server] > 0 and state.free_us[server] <= _DONE:
                _end(state, server, now_us)
            if state.rows[server] == 0:
                _begin(state, server, now_us)


@inlined
def _times(state: State, servers: np.ndarray, times_us: np.ndarray) -> int:
    """Fills in how long each running batch would take if all went on as now.

    Returns:
        How many run.
    """
    running = 0
    for server in servers:
        running += state.rows[server] > 0
    if running == 0:
        return 0
    place = max(1, (state.table_us.shape[2] - 1) // running)
    for i in range(len(servers)):
        server = servers[i]
        if state.rows[server] == 0:
            times_us[i] = math.inf
            continue
        function, factor = state.server_of[server], 1.0
        for other in servers:
            if other != server and state.rows[other] > 0:
                factor += state.coupling[function, state.server_of[other]] * 100 / running
        times_us[i] = state.table_us[function, state.rows[server], place] * factor
    return running


@compiled
def _begin(state: State, server: int, now_us: float) -> None:
    function = state.server_of[server]
    _let_in_until(state, function, now_us, 0)
    drop_expired(state, function, now_us)
    state.rows[server] = min(state.length[function], state.rows_max[server])
    state.free_us[server], state.begun_us[server] = noise(state), now_us


@compiled
def _end(state: State, server: int, now_us: float) -> None:
    function, rows = state.server_of[server], state.rows[server]
    _let_in_until(state, function, now_us, rows)
    begun_us = state.begun_us[server]
    count_batch(state, function, state.device_of[server], 0.0, rows, begun_us, now_us - begun_us)
    take(state, function, rows, now_us)
    state.rows[server] = 0


@compiled
def _let_in_until(state: State, function: int, now_us: float, in_batch: int) -> None:
    while state.next[function] < state.end[function]:
        if state.arrivals[state.next[function]] > now_us:
            return
        let_in(state, function, 1, in_batch)
