"""Drives functions in closed loops and measures what a client sees."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gslice.client.aio import Client
from gslice.demo.ocr import Infer, Tensor

Inputs = Mapping[str, Tensor]


class Recorder:
    """An inference call that remembers what was sent, so that a load phase can send it again.

    Args:
        infer: The call.
    """

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self.sent: dict[str, list[Inputs]] = {}
        """Inputs by function, in the order of the calls."""

    def __call__(self, function: str, inputs: Inputs) -> Mapping[str, Tensor]:
        """Runs a function."""
        self.sent.setdefault(function, []).append(dict(inputs))
        return self._infer(function, inputs)


@dataclass
class Measured:
    """One function under load.

    Attributes:
        seconds: How long the load lasted.
        latencies_us: One an answered request, unordered.
        batch_mean_rows: Rows a batch, as the worker ran them; known at the end.
    """

    seconds: float = 0.0
    latencies_us: list[float] = field(default_factory=list)
    batch_mean_rows: float = 0.0

    @property
    def rate_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.latencies_us) / self.seconds if self.seconds else 0.0

    def percentile_us(self, percent: float) -> float:
        """The nearest-rank percentile; 0 when nothing was answered."""
        ascending = sorted(self.latencies_us)
        if not ascending:
            return 0.0
        return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]


async def drive(
    client: Client,
    requests: Mapping[str, Sequence[Inputs]],
    concurrency: Mapping[str, int],
    seconds: float,
    progress: Callable[[float, Mapping[str, Measured]], None],
) -> dict[str, Measured]:
    """Calls all functions at once, each in its own closed loops.

    Args:
        client: To the node.
        requests: Inputs by function; they are sent in turn.
        concurrency: Calls in flight, by function.
        seconds: How long to start new calls.
        progress: Told after every answer: elapsed seconds and what is measured so far.

    Returns:
        What was measured, by function.

    Raises:
        GsliceError: a call failed; the first failure ends the load.
    """
    before = await _batches(client, requests)
    measured = {function: Measured() for function in requests}
    start = time.perf_counter()

    async def loop(function: str, inputs: itertools.cycle[Inputs]) -> None:
        mine = measured[function]
        while (sent := time.perf_counter()) - start < seconds:
            await client.infer(function, next(inputs))
            answered = time.perf_counter()
            mine.latencies_us.append((answered - sent) * 1e6)
            mine.seconds = answered - start
            progress(mine.seconds, measured)

    tasks = [
        asyncio.create_task(loop(function, inputs))
        for function, sent in requests.items()
        for inputs in itertools.repeat(itertools.cycle(sent), concurrency[function])
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    for function, (rows, batches) in (await _batches(client, requests)).items():
        rows_before, batches_before = before[function]
        measured[function].batch_mean_rows = (rows - rows_before) / max(1, batches - batches_before)
    return measured


async def _batches(client: Client, functions: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Rows and batches that each function has run, since it was loaded."""
    counted = {}
    for function in functions:
        (entry,) = await client.statistics(function)
        rows, batches = entry.get("inference_count", 0), entry.get("execution_count", 0)
        counted[function] = (int(rows), int(batches))
    return counted
