"""Load over a bare connection: a closed loop, and an open one that remembers each of its calls."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.http2 import Connection, Request
from gslice.client import load

ONE_CONNECTION = {"connection_age": "24h"}  # under `node`: our client does not connect anew
INFER = "/inference.GRPCInferenceService/ModelInfer"
ANSWER_TIMEOUT_S = 30.0  # what was not answered by then never will be


@dataclass(frozen=True)
class Load:
    """What a load phase gave.

    Attributes:
        requests: Answered requests.
        seconds: How long it took.
        p50_us: Median latency.
        p99_us: Latency at the 99th percentile.
        client_cpu_us: Processor time of the client itself, a request.
    """

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    client_cpu_us: float

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


async def closed_loop(
    connection: Connection, request: Request, concurrency: int, seconds: float
) -> Load:
    """Keeps `concurrency` calls in flight for some seconds.

    Args:
        connection: To the server.
        request: The same every time.
        concurrency: Calls in flight.
        seconds: How long to start new calls.

    Raises:
        RuntimeError: A call failed, or none was answered.
    """
    return await closed_loop_of(lambda: connection.call(request), concurrency, seconds)


async def closed_loop_of(call: load.Call, concurrency: int, seconds: float) -> Load:
    """The same for calls that differ: `call` starts the next one."""
    outcome, cpu_start_ns = load.Outcome(), time.process_time_ns()
    await load.closed_loop(call, concurrency, seconds, outcome)
    cpu_ns = time.process_time_ns() - cpu_start_ns
    if outcome.errors or not outcome.ok:  # a figure of a run that failed in part would be no figure
        seen = "; ".join(f"{name}: {text}" for name, text in outcome.example.items())
        raise RuntimeError(f"{outcome.ok} calls answered in {seconds} s; {seen or 'none failed'}")
    ascending = sorted(outcome.latencies_us)
    return Load(
        requests=outcome.ok,
        seconds=outcome.elapsed_s,
        p50_us=load.percentile(ascending, 50),
        p99_us=load.percentile(ascending, 99),
        client_cpu_us=cpu_ns / 1e3 / outcome.ok,
    )


@dataclass(slots=True)
class Call:
    """One request of an open loop. Times are `time.perf_counter()`.

    Attributes:
        due_s: When it should have been sent; its latency counts from here.
        answered_s: When its answer came; NaN: it did not.
        error: What was answered, if it was an error.
    """

    due_s: float
    answered_s: float = math.nan
    error: str = ""

    @property
    def lost(self) -> bool:
        """It was never answered."""
        return math.isnan(self.answered_s)


class Arrivals:
    """Has requests sent at the times of a Poisson process while its context is open.

    Whether others were answered does not matter, so a server cannot hide its queue behind a client
    that waits. The end waits for the last answers. A thread of its own sleeps until the next is
    due: event loops sleep in whole milliseconds, and to spin would take a core from the server.

    Args:
        rate_per_s: Mean rate.
        seed: Of the arrival times.
        send: Sends a request that was due at a time of `time.perf_counter()`; what it returns ends
            with its answer.
    """

    def __init__(
        self, rate_per_s: float, seed: int, send: Callable[[float], asyncio.Future[Any]]
    ) -> None:
        self._rate_per_s = rate_per_s
        self._send = send
        self._gaps = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._ending = threading.Event()
        self._clock = threading.Thread(target=self._send_when_due, name="arrivals")

    async def __aenter__(self) -> Self:
        self._clock.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        await asyncio.to_thread(self._clock.join)
        if self._waiting and kind is None:
            await asyncio.wait(self._waiting, timeout=ANSWER_TIMEOUT_S)
        for call in self._waiting:
            call.cancel()

    def _send_when_due(self) -> None:
        due_s = time.perf_counter()
        while True:
            due_s += self._gaps.expovariate(self._rate_per_s)
            if self._ending.wait(max(0.0, due_s - time.perf_counter())):
                return
            self._loop.call_soon_threadsafe(self._send_one, due_s)

    def _send_one(self, due_s: float) -> None:
        call = self._send(due_s)
        self._waiting.add(call)
        call.add_done_callback(self._waiting.discard)


class OpenLoop(Arrivals):
    """The same request at the times of a Poisson process: see `Arrivals`.

    Args:
        connection: To the server.
        request: The same every time.
        rate_per_s: Mean rate.
        seed: Of the arrival times.

    Attributes:
        calls: All that were sent, in the order of their due times.
    """

    def __init__(
        self, connection: Connection, request: Request, rate_per_s: float, seed: int = 0
    ) -> None:
        super().__init__(rate_per_s, seed, self._call)
        self.calls: list[Call] = []
        self._connection = connection
        self._request = request

    def _call(self, due_s: float) -> asyncio.Future[bytes]:
        call = Call(due_s)
        self.calls.append(call)

        def answered(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if isinstance(error, OSError):  # the connection broke
                return
            call.answered_s = time.perf_counter()
            call.error = str(error or "")

        future = self._connection.call(self._request)
        future.add_done_callback(answered)
        return future
