"""Time sharing: a device serves one batch of one function at a time, in turn, with all it has."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.goodput.compiled import compiled
from benchmarks.goodput.queues import count_batch, drop_expired, first_us, let_in, noise, take
from benchmarks.goodput.state import State


@compiled
def advance(state: State, from_us: float, until_us: float) -> None:
    """Begins every batch that can begin from one time until another."""
    for device in range(state.busy_us.shape[1]):
        servers = np.flatnonzero(state.device_of == device)
        if len(servers) > 0:
            _advance(state, servers, from_us, until_us)


@compiled
def _advance(state: State, servers: np.ndarray, from_us: float, until_us: float) -> None:
    last = 0
    now_us = from_us
    for i in range(len(servers)):
        now_us = max(now_us, state.free_us[servers[i]])
        if state.begun_us[servers[i]] > state.begun_us[servers[last]]:
            last = i
    while True:
        ready_us = math.inf
        for server in servers:
            ready_us = min(ready_us, first_us(state, state.server_of[server]))
        now_us = max(now_us, ready_us)
        if now_us >= until_us:
            return
        for server in servers:
            function = state.server_of[server]
            while state.next[function] < state.end[function]:
                if state.arrivals[state.next[function]] > now_us:
                    break
                let_in(state, function, 1)
            drop_expired(state, function, now_us)
        for step in range(1, len(servers) + 1):
            turn = (last + step) % len(servers)
            if state.length[state.server_of[servers[turn]]] > 0:
                now_us = _serve(state, servers[turn], now_us)
                last = turn
                break


@compiled
def _serve(state: State, server: int, now_us: float) -> float:
    """Serves a batch.

    Returns:
        When the device is free again.
    """
    function = state.server_of[server]
    rows = min(state.length[function], state.rows_max[server])
    took_us = state.table_us[function, rows, -1] * noise(state)
    state.begun_us[server], state.free_us[server] = now_us, now_us + took_us
    count_batch(state, function, state.device_of[server], 1.0, rows, now_us, took_us)
    take(state, function, rows, now_us + took_us)
    return float(now_us + took_us)
