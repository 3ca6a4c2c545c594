"""Drives functions in closed loops and measures what a client sees."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
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
class Latencies:
    """Latencies of one function's answered requests.

    Attributes:
        seconds: How long the load lasted.
        values_us: One a request, unordered.
    """

    seconds: float = 0.0
    values_us: list[float] = field(default_factory=list)

    @property
    def rate_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.values_us) / self.seconds if self.seconds else 0.0

    def percentile_us(self, percent: float) -> float:
        """The nearest-rank percentile; 0 when nothing was answered."""
        ascending = sorted(self.values_us)
        if not ascending:
            return 0.0
        return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]


async def drive(
    client: Client,
    requests: Mapping[str, Sequence[Inputs]],
    concurrency: Mapping[str, int],
    seconds: float,
    progress: Callable[[float, Mapping[str, Latencies]], None],
) -> dict[str, Latencies]:
    """Calls all functions at once, each in its own closed loops.

    Args:
        client: To the node.
        requests: Inputs by function; they are sent in turn.
        concurrency: Calls in flight, by function.
        seconds: How long to start new calls.
        progress: Told after every answer: elapsed seconds and the latencies so far.

    Returns:
        Latencies by function.

    Raises:
        GsliceError: a call failed; the first failure ends the load.
    """
    measured = {function: Latencies() for function in requests}
    start = time.perf_counter()

    async def loop(function: str, inputs: itertools.cycle[Inputs]) -> None:
        latencies = measured[function]
        while (sent := time.perf_counter()) - start < seconds:
            await client.infer(function, next(inputs))
            answered = time.perf_counter()
            latencies.values_us.append((answered - sent) * 1e6)
            latencies.seconds = answered - start
            progress(latencies.seconds, measured)

    loops = [
        loop(function, cycle)
        for function, sent in requests.items()
        for cycle in [itertools.cycle(sent)]
        for _ in range(concurrency[function])
    ]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in loops]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return measured
