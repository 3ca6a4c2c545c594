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
        limits: By function: batch_rows_max, delay_us, shed_us, fixed_us, row_us.
        table_us: By function, rows and share: batch times.
        coupling: By function slowed and function that does it.
        counts: By window of the arrival, function and column.
        batches: By function: batches, their rows, their time.
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
    limits = np.zeros((count, 5))
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
        table_us=np.stack(tables_us),
        coupling=coupling,
        counts=np.zeros((windows, count, 5), np.int64),
        batches=np.zeros((count, 3)),
        sizes=np.zeros((count, ROWS_MAX + 1), np.int64),
        busy_us=np.zeros((windows, devices)),
        window_us=window_us,
        noise=noise,
        **_no_servers(0),
    )


def with_servers(
    state: State, servers: list[tuple[int, int, float, int, int]], now_us: float
) -> State:
    """The same with other servers; one that stays keeps its batch, a new one begins now.

    Args:
        state: Before.
        servers: Function, device, percent, `index` of the share and largest batch of each.
        now_us: The time.
    """
    arrays = _no_servers(len(servers))
    kept = {
        (int(f), int(d)): i
        for i, (f, d) in enumerate(zip(state.server_of, state.device_of, strict=True))
    }
    for i, (function, device, share, place, rows_max) in enumerate(servers):
        for name, value in zip(
            ("server_of", "device_of", "share", "place", "rows_max"),
            (function, device, share, place, rows_max),
            strict=True,
        ):
            arrays[name][i] = value
        arrays["free_us"][i] = arrays["begun_us"][i] = now_us
        if (old := kept.get((function, device))) is not None:
            for name in ("free_us", "begun_us", "rows"):
                arrays[name][i] = getattr(state, name)[old]
    return state._replace(**arrays)


def _no_servers(count: int) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    names = {"server_of", "device_of", "place", "rows_max", "rows"}
    return {
        name: np.zeros(count, np.int64 if name in names else np.float64)
        for name in State._fields[-8:]
    }
