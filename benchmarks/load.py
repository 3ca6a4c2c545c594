"""A light load client: raw bytes over grpc.aio in closed loops, nothing decoded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
import grpc.aio

from benchmarks.common import percentile

UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
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
        answer: The last answer, so that it can be checked.
    """

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    client_cpu_us: float
    answer: bytes

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


async def closed_loop(
    channel: grpc.aio.Channel, method: str, payload: bytes, concurrency: int, seconds: float
) -> Load:
    """Keeps `concurrency` calls in flight for some seconds.

    Args:
        channel: To the server.
        method: Full path of a unary call.
        payload: The serialised request, the same every time.
        concurrency: Calls in flight.
        seconds: How long to start new calls.
    """
    call = channel.unary_unary(method)  # no serialisers: bytes go in and come out
    latencies_ns: list[int] = []
    answer = b""
    clock = time.perf_counter_ns
    end_ns = clock() + int(seconds * 1e9)

    async def loop() -> None:
        nonlocal answer
        while (start_ns := clock()) < end_ns:
            answer = await call(payload)
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
        answer=answer,
    )
