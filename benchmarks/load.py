"""Closed loops: as many calls in flight as asked for, each followed by the next at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.common import percentile
from benchmarks.http2 import Connection, Request

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
    """
    latencies_ns: list[int] = []
    clock = time.perf_counter_ns
    end_ns = clock() + int(seconds * 1e9)

    async def loop() -> None:
        while (start_ns := clock()) < end_ns:
            await connection.call(request)
            latencies_ns.append(clock() - start_ns)

    start_ns, cpu_start_ns = clock(), time.process_time_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(loop())
    elapsed_ns, cpu_ns = clock() - start_ns, time.process_time_ns() - cpu_start_ns

    latencies_ns.sort()
    return Load(
        requests=len(latencies_ns),
        seconds=elapsed_ns / 1e9,
        p50_us=percentile(latencies_ns, 50) / 1e3,
        p99_us=percentile(latencies_ns, 99) / 1e3,
        client_cpu_us=cpu_ns / 1e3 / len(latencies_ns),
    )
