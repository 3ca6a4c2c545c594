"""Drives functions in closed loops and measures what a client sees."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gslice.client.aio import Client
from gslice.client.load import Outcome, closed_loop, percentile
from gslice.core.errors import GsliceError
from gslice.demo.ocr import Infer, Tensor

Inputs = Mapping[str, Tensor]

_REFRESH_S = 0.25


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
class Measured(Outcome):
    """One function under load.

    Attributes:
        batch_mean_rows: Rows a batch, as the worker ran them; known at the end.
    """

    batch_mean_rows: float = 0.0

    def failed(self, error: GsliceError) -> None:
        """The first failure ends the load."""
        raise error

    def percentile_us(self, percent: float) -> float:
        """The nearest-rank percentile; 0 when nothing was answered."""
        return percentile(sorted(self.latencies_us), percent) if self.ok else 0.0


async def drive(
    client: Client,
    requests: Mapping[str, Sequence[Inputs]],
    concurrency: Mapping[str, int],
    seconds: float,
    progress: Callable[[Mapping[str, Measured]], None],
) -> dict[str, Measured]:
    """Calls all functions at once, each in its own closed loops.

    Args:
        client: To the node.
        requests: Inputs by function; they are sent in turn.
        concurrency: Calls in flight, by function.
        seconds: How long to start new calls.
        progress: Told now and then what is measured so far.

    Returns:
        What was measured, by function.

    Raises:
        GsliceError: a call failed; the first failure ends the load.
    """
    before = await _batches(client, requests)
    measured = {function: Measured() for function in requests}

    async def load(function: str) -> None:
        inputs = itertools.cycle(requests[function])
        await closed_loop(
            lambda: client.infer(function, next(inputs)),
            concurrency[function],
            seconds,
            measured[function],
        )

    loads = [asyncio.ensure_future(load(function)) for function in requests]
    ended = asyncio.gather(*loads)
    try:
        while not (await asyncio.wait({ended}, timeout=_REFRESH_S))[0]:
            progress(measured)
        await ended
    finally:
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

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
