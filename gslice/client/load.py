"""Load on one function, and what a client saw of it.

Open loop: requests start at the times of a Poisson process, whether or not earlier ones were
answered, and each latency counts from when its request was due. A slow server, or a slow client,
can so not hide its own queue (no coordinated omission). Closed loop: a number of callers, each of
which sends its next request when it has its answer.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gslice.core.errors import GsliceError

Call = Callable[[], Awaitable[object]]

_TICK_S = 0.001
OUTSTANDING_MAX = 4096  # an overloaded server must not fill the client's memory


@dataclass
class Outcome:
    """What was seen so far.

    Attributes:
        elapsed_s: Since the first request was due; to the last answer, once all are there.
        latencies_us: Of the answered requests.
        lateness_us: How much later than due each request was sent: the client's own delay.
        errors: By class of the error tree.
        example: The message of the first error of each class.
        unsent: Requests that were due while OUTSTANDING_MAX waited for their answers.
    """

    elapsed_s: float = 0.0
    latencies_us: array[float] = field(default_factory=lambda: array("d"))
    lateness_us: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    unsent: int = 0

    @property
    def ok(self) -> int:
        """Answered requests."""
        return len(self.latencies_us)

    @property
    def rate_per_s(self) -> float:
        """Answered requests a second."""
        return self.ok / self.elapsed_s if self.elapsed_s else 0.0

    def failed(self, error: GsliceError) -> None:
        """Counts an error."""
        name = type(error).__name__
        self.errors[name] += 1
        self.example.setdefault(name, error.message)


async def open_loop(
    call: Call, rate_per_s: float, seconds: float, outcome: Outcome, seed: int = 0
) -> None:
    """Sends `rate_per_s` requests a second for `seconds`, and waits for their answers.

    Args:
        call: Sends one request.
        rate_per_s: Mean rate of the Poisson process.
        seconds: How long requests are due.
        outcome: Filled on the way.
        seed: Of the arrival times.
    """
    arrivals = random.Random(seed)
    running: set[asyncio.Task[None]] = set()
    start = due = time.perf_counter()
    async with _all_done(running):
        while due - start < seconds:
            await _sleep_until(due)
            if len(running) < OUTSTANDING_MAX:
                task = asyncio.ensure_future(_timed(call, due, start, outcome))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                outcome.unsent += 1
            due += arrivals.expovariate(rate_per_s)


async def closed_loop(call: Call, concurrency: int, seconds: float, outcome: Outcome) -> None:
    """Keeps `concurrency` requests in flight for `seconds`, and waits for the last answers.

    Args:
        call: Sends one request.
        concurrency: Callers.
        seconds: How long they start requests.
        outcome: Filled on the way.
    """
    start = time.perf_counter()

    async def caller() -> None:
        while (now := time.perf_counter()) - start < seconds:
            await _timed(call, now, start, outcome)

    async with _all_done({asyncio.ensure_future(caller()) for _ in range(concurrency)}):
        pass


def percentile(ascending: array[float] | list[float], percent: float) -> float:
    """The nearest-rank percentile of sorted values; NaN of none."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]


async def _sleep_until(due: float) -> None:
    """Wakes within some 10 us of the time: event loops sleep in whole milliseconds."""
    await asyncio.sleep(max(0.0, due - time.perf_counter() - _TICK_S))
    while time.perf_counter() < due:  # noqa: ASYNC110 -- a time, not an event, is waited for
        await asyncio.sleep(0)


async def _timed(call: Call, due: float, start: float, outcome: Outcome) -> None:
    outcome.lateness_us.append((time.perf_counter() - due) * 1e6)
    try:
        await call()
    except GsliceError as error:
        outcome.failed(error)
    else:
        outcome.latencies_us.append((time.perf_counter() - due) * 1e6)
    outcome.elapsed_s = time.perf_counter() - start


@asynccontextmanager
async def _all_done(tasks: set[asyncio.Task[None]]) -> AsyncIterator[None]:
    """Waits for the tasks at the end; when something failed, cancels them first."""
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
