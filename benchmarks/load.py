"""A closed loop over a bare connection: what a load phase gave."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.http2 import Connection, Request
from gslice.client import load

INFER = "/inference.GRPCInferenceService/ModelInfer"


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
    outcome, cpu_start_ns = load.Outcome(), time.process_time_ns()
    await load.closed_loop(lambda: connection.call(request), concurrency, seconds, outcome)
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
