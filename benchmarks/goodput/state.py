"""The simulation's state: plain arrays, which the compiled loops take apart by name.

Times are us since the beginning, as floats; a function, a server and a device are numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.tables import ROWS_MAX

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ARRIVED, ANSWERED, LATE, SHED, EXPIRED = range(5)
"""Columns of `counts`. What is late was answered too."""
QUEUE_MAX = 256
"""Places in a queue, as `queue.max` is by default: who finds none is turned away."""
PLACES = 2 * QUEUE_MAX  # with those that are in a batch


class State(NamedTuple):
    """Everything that changes, and what it is looked up in.

    Attributes:
        arrivals: Of all requests, function after function, each ascending.
        next: By function: its next arrival there.
        end: By function: one past its last.
        queue: By function and place: when the request there arrived.
        head: By function: its first place.
        length: By function: how many wait.
        slo_us: By function.
        expire_us: By function: how long clients wait for a batch to take their request.
        limits: By function: batch_rows_max, delay_us, shed_us.
        estimate_us: By function: smoothed time of its batches, and time of the last one.
        table_us: By function, rows and share: batch times.
        coupling: By function slowed and function that does it.
        counts: By window of the arrival, function and column.
        batches: By function: batches, their rows, their time, latencies of their requests.
        sizes: By function: batches of each number of rows.
        busy_us: By window and device: time of batches, times their part of the device.
        window_us: How long a window is, for `counts` and `busy_us`.
        noise: Standard deviation of the logarithm of batch times.
        server_of: By server: its function.
        device_of: By server: its device.
        share: By server: its percent of the device.
        place: By server: where its share stands in the table.
        rows_max: By server: its largest batch.
        free_us: By server: when its batch is done.
        begun_us: By server: when it was begun.
        rows: By server: rows of that batch.
        at_once: By device: percent that may run at a time, when servers take turns; 0: they do not.
    """

    arrivals: Floats
    next: Ints
    end: Ints
    queue: Floats
    head: Ints
    length: Ints
    slo_us: Floats
    expire_us: Floats
    limits: Floats
    estimate_us: Floats
    table_us: Floats
    coupling: Floats
    counts: Ints
    batches: Floats
    sizes: Ints
    busy_us: Floats
    window_us: float
    noise: float
    server_of: Ints
    device_of: Ints
    share: Floats
    place: Ints
    rows_max: Ints
    free_us: Floats
    begun_us: Floats
    rows: Ints
    at_once: Floats


def fresh(
    arrivals: list[Floats],
    slo_us: Floats,
    expire_us: Floats,
    tables_us: list[Floats],
    coupling: Floats,
    *,
    devices: int,
    windows: int,
    window_us: float,
    noise: float,
) -> State:
    """A state at the beginning, without servers."""
    count = len(arrivals)
    ends = np.cumsum([len(each) for each in arrivals]).astype(np.int64)
    limits = np.zeros((count, 3))
    limits[:, 0] = ROWS_MAX
    return State(
        arrivals=np.concatenate(arrivals),
        next=np.concatenate([[0], ends[:-1]]).astype(np.int64),
        end=ends,
        queue=np.zeros((count, PLACES)),
        head=np.zeros(count, np.int64),
        length=np.zeros(count, np.int64),
        slo_us=slo_us,
        expire_us=expire_us,
        limits=limits,
        estimate_us=np.zeros((count, 2)),
        table_us=np.stack(tables_us),
        coupling=coupling,
        counts=np.zeros((windows, count, 5), np.int64),
        batches=np.zeros((count, 4)),
        sizes=np.zeros((count, ROWS_MAX + 1), np.int64),
        busy_us=np.zeros((windows, devices)),
        window_us=window_us,
        noise=noise,
        server_of=np.zeros(0, np.int64),
        device_of=np.zeros(0, np.int64),
        share=np.zeros(0),
        place=np.zeros(0, np.int64),
        rows_max=np.zeros(0, np.int64),
        free_us=np.zeros(0),
        begun_us=np.zeros(0),
        rows=np.zeros(0, np.int64),
        at_once=np.zeros(devices),
    )


class Server(NamedTuple):
    """A part of a device that serves a function.

    Attributes:
        function: Its number.
        device: Its number.
        share_percent: Of the device.
        place: Where that stands in a table.
        rows_max: Largest batch.
    """

    function: int
    device: int
    share_percent: float
    place: int
    rows_max: int


def with_servers(state: State, servers: list[Server], now_us: float) -> State:
    """The same with other servers; one that stays keeps its batch, a new one begins now."""
    kept = {
        (int(function), int(device)): i
        for i, (function, device) in enumerate(zip(state.server_of, state.device_of, strict=True))
    }
    old = [kept.get((server.function, server.device), -1) for server in servers]
    return state._replace(
        server_of=np.array([server.function for server in servers], np.int64),
        device_of=np.array([server.device for server in servers], np.int64),
        share=np.array([server.share_percent for server in servers], np.float64),
        place=np.array([server.place for server in servers], np.int64),
        rows_max=np.array([server.rows_max for server in servers], np.int64),
        free_us=np.array([state.free_us[i] if i >= 0 else now_us for i in old], np.float64),
        begun_us=np.array([state.begun_us[i] if i >= 0 else now_us for i in old], np.float64),
        rows=np.array([state.rows[i] if i >= 0 else 0 for i in old], np.int64),
    )
