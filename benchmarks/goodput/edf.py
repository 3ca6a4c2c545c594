"""Service by shares that over-commit a device: turns in time, earliest deadline first.

A batch begins if its share fits beside those that run, and if no request that waits on the device
for another function is due before its own: nobody passes the head. Each server has one batch under
way. A device without turns serves as in `shares`.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.goodput.compiled import compiled, inlined
from benchmarks.goodput.queues import let_in
from benchmarks.goodput.shares import serve
from benchmarks.goodput.state import State

_ROUNDING = 1e-6


@compiled
def advance(state: State, from_us: float, until_us: float) -> None:
    """Begins every batch that can begin from one time until another."""
    servers_of = np.zeros(len(state.slo_us), np.int64)
    for function in state.server_of:
        servers_of[function] += 1
    now_us = from_us
    while now_us < until_us:
        for function in range(len(servers_of)):
            while state.next[function] < state.end[function]:
                if state.arrivals[state.next[function]] > now_us:
                    break
                let_in(state, function, servers_of[function])
        for device in range(len(state.at_once)):
            _begin(state, device, now_us)
        now_us = _next_event_us(state, now_us)


@compiled
def _next_event_us(state: State, now_us: float) -> float:
    """When the next request arrives, or the next batch is done."""
    next_us = math.inf
    for function in range(len(state.slo_us)):
        if state.next[function] < state.end[function]:
            next_us = min(next_us, state.arrivals[state.next[function]])
    for server in range(len(state.server_of)):
        if state.free_us[server] > now_us:
            next_us = min(next_us, state.free_us[server])
    return float(next_us)


@compiled
def _begin(state: State, device: int, now_us: float) -> None:
    """Begins what may begin on a device now."""
    running = 0.0
    for server in range(len(state.server_of)):
        if state.device_of[server] == device and state.free_us[server] > now_us:
            running += state.share[server]
    while True:
        server = _most_urgent(state, device, now_us)
        if server < 0:
            return
        limit = state.at_once[device]
        if limit > 0 and running + state.share[server] > limit + _ROUNDING:
            return
        serve(state, state.server_of[server], server, now_us)
        if state.free_us[server] > now_us:
            running += state.share[server]


@inlined
def _most_urgent(state: State, device: int, now_us: float) -> int:
    """The free server of the device whose function has the request that is due first."""
    chosen, due_us = -1, math.inf
    for server in range(len(state.server_of)):
        function = state.server_of[server]
        if (
            state.device_of[server] == device
            and state.free_us[server] <= now_us
            and state.length[function] > 0
        ):
            head_us = state.queue[function, state.head[function]] + state.slo_us[function]
            if head_us < due_us:
                chosen, due_us = server, head_us
    return chosen
