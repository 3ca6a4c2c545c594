"""A closed and an open loop over anything that starts a call, as light as Python lets them be.

Both send a number of requests that was fixed before. The closed loop keeps so many in flight; the
open loop sends at the times of a Poisson process, whether or not others were answered, and counts
each latency from when its request was due. It polls instead of sleeping: it has a core of its own,
and event loops sleep in whole milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

ANSWER_TIMEOUT_S = 30.0  # since the last answer: what did not come by then never will
LEAD_NS = 1_000_000

Call = Callable[[], asyncio.Future[Any]]


@dataclass
class Outcome:
    """What a loop saw.

    Attributes:
        seconds: From the first request to the last answer.
        latencies_ns: Of the answered requests.
        late_ns: How much later than due each request of an open loop was sent.
        errors: Requests that failed or were never answered.
        example: The first error.
    """

    seconds: float = 0.0
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    late_ns: array[int] = field(default_factory=lambda: array("q"))
    errors: int = 0
    example: str = ""

    @property
    def rps(self) -> float:
        """Answered requests a second."""
        return len(self.latencies_ns) / self.seconds if self.seconds else 0.0

    def failed(self, error: str, count: int = 1) -> None:
        """Counts errors."""
        self.errors += count
        self.example = self.example or error


class _Loop:
    """Calls in flight, and what becomes of them."""

    def __init__(self, call: Call) -> None:
        self.outcome = Outcome()
        self._call = call
        self._in_flight = 0
        self._answers = 0
        self._ended_ns = 0
        self._idle = asyncio.Event()

    def send(self, since_ns: int) -> None:
        """Starts a call whose latency counts from a moment."""
        self._in_flight += 1
        self._call().add_done_callback(partial(self._answered, since_ns))

    def _answered(self, since_ns: int, future: asyncio.Future[Any]) -> None:
        self._ended_ns = now_ns = time.perf_counter_ns()
        self._in_flight -= 1
        self._answers += 1
        if future.cancelled():
            self.outcome.failed("the call was cancelled")
        elif error := future.exception():
            self.outcome.failed(str(error) or type(error).__name__)
        else:
            self.outcome.latencies_ns.append(now_ns - since_ns)
        self.after_answer()
        if not self._in_flight:
            self._idle.set()

    def after_answer(self) -> None:
        """What a loop does when a call has ended."""

    async def rest(self, start_ns: int) -> Outcome:
        """Waits until all have ended, as long as any do."""
        while self._in_flight:
            self._idle.clear()
            before = self._answers
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._idle.wait()
            except TimeoutError:
                if self._answers == before:
                    self.outcome.failed("no answer came", self._in_flight)
                    break
        self.outcome.seconds = max(0, self._ended_ns - start_ns) / 1e9
        return self.outcome


class _Closed(_Loop):
    def __init__(self, call: Call, requests: int) -> None:
        super().__init__(call)
        self._unsent = requests

    def after_answer(self) -> None:
        if self._unsent:
            self._unsent -= 1
            self.send(time.perf_counter_ns())


async def closed_loop(call: Call, concurrency: int, requests: int) -> Outcome:
    """Keeps `concurrency` calls in flight until `requests` have been sent."""
    first = min(concurrency, requests)
    loop = _Closed(call, requests - first)
    with _no_collections():
        start_ns = time.perf_counter_ns()
        for _ in range(first):
            loop.send(time.perf_counter_ns())
        return await loop.rest(start_ns)


async def open_loop(call: Call, schedule_ns: Sequence[int]) -> Outcome:
    """Sends a request at each time of a schedule, which counts from its start."""
    loop = _Loop(call)
    late_ns = loop.outcome.late_ns
    with _no_collections():
        start_ns = time.perf_counter_ns() + LEAD_NS
        for offset_ns in schedule_ns:
            due_ns = start_ns + offset_ns
            now_ns = 0
            while now_ns < due_ns:
                await asyncio.sleep(0)  # also when late: answers want to be read
                now_ns = time.perf_counter_ns()
            late_ns.append(now_ns - due_ns)
            loop.send(due_ns)
        return await loop.rest(start_ns)


def poisson_schedule_ns(rate_per_s: float, requests: int, seed: int) -> list[int]:
    """When the requests of a Poisson process are due; the same for the same seed."""
    chance = random.Random(seed)
    gaps_s = (chance.expovariate(rate_per_s) for _ in range(requests))
    return [int(due_s * 1e9) for due_s in accumulate(gaps_s)]


@contextmanager
def _no_collections() -> Iterator[None]:
    """The client's garbage collections would be the servers' latencies."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
