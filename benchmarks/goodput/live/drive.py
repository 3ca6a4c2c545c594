"""One run: a fresh node under an open loop for each function, and a look at it now and then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.goodput.live.course import MODELS
from benchmarks.goodput.live.record import Recording, Sample
from benchmarks.goodput.live.site import Site, worker_pids
from benchmarks.goodput.live.ways import Way
from benchmarks.goodput.scene import Function
from benchmarks.goodput.simulate import LOOK_US
from benchmarks.goodput.workloads import Asked, Workload
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, Call, OpenLoop
from benchmarks.wire import infer_request
from gslice.demo.node import ServedNode

_LOADS_MAX = 100  # of a run: seeds of runs are so far from each other


@dataclass(frozen=True)
class _Load:
    """Requests at one rate.

    Attributes:
        connection: To the node.
        request: Asked again and again.
        rate_per_s: Mean rate.
        seed: Of the arrivals.
        begin_s: When it begins, by `time.perf_counter`.
        end_s: When it ends.
    """

    connection: Connection
    request: Request
    rate_per_s: float
    seed: int
    begin_s: float
    end_s: float

    async def run(self) -> list[Call]:
        """Waits for its time, asks, and waits for the last answers."""
        await asyncio.sleep(self.begin_s - time.perf_counter())
        async with OpenLoop(self.connection, self.request, self.rate_per_s, self.seed) as loop:
            await asyncio.sleep(self.end_s - time.perf_counter())
        return loop.calls


async def drive(
    site: Site,
    way: Way,
    workload: Workload,
    step_s: float,
    functions: Mapping[str, Function],
    seed: int,
) -> Recording:
    """Serves the workload on a fresh node.

    Args:
        site: Where.
        way: How the device is divided.
        workload: What is asked.
        step_s: When rates change.
        functions: As measured, by name.
        seed: Of the arrivals: the same for every way.
    """
    bodies = way.functions(functions)
    node = site.node(bodies, controlled=way.controlled, limited=way.limited)
    async with node, AsyncExitStack() as stack:
        site.settle(node.status)
        requests = []
        for model in MODELS:
            connection = await Connection.connect(node.grpc_address)
            await stack.enter_async_context(connection)
            payload = infer_request(model.name, model.inputs)
            requests.append((connection, Request(node.grpc_address, INFER, payload)))
        start_s = time.perf_counter()
        loads = [
            _Load(*requests[place], rate_per_s, seed * _LOADS_MAX + 2 * place + part, *times_s)
            for place, asked in enumerate(workload.functions)
            for part, (rate_per_s, *times_s) in enumerate(_parts(asked, workload, step_s, start_s))
        ]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_watched(node, start_s, workload.seconds))
            asking = [group.create_task(load.run()) for load in loads]
    calls = [task.result() for task in asking]
    return Recording(
        workload=workload,
        start_s=start_s,
        calls={
            asked.name: [*calls[2 * place], *calls[2 * place + 1]]
            for place, asked in enumerate(workload.functions)
        },
        samples=watching.result(),
        cores=len(site.cpus),
    )


def _parts(
    asked: Asked, workload: Workload, step_s: float, start_s: float
) -> list[tuple[float, float, float]]:
    """Rate, begin and end, before the step and after it."""
    before, after = asked.rate_per_s * asked.curve(np.array([0.0, step_s]))
    return [
        (float(before), start_s, start_s + step_s),
        (float(after), start_s + step_s, start_s + workload.seconds),
    ]


async def _watched(node: ServedNode, start_s: float, seconds: float) -> list[Sample]:
    """Looks at the node as often as the simulation looks."""
    busy_s: dict[int, float] = {}
    samples = [await _look(node, start_s, busy_s)]
    while (at_s := samples[-1].at_s) < seconds:
        await asyncio.sleep(min(LOOK_US / 1e6, max(0.0, seconds - at_s)))
        samples.append(await _look(node, start_s, busy_s))
    return samples


async def _look(node: ServedNode, start_s: float, busy_s: dict[int, float]) -> Sample:
    """One sample.

    Args:
        node: The node.
        start_s: When the run began.
        busy_s: Processor time of every worker that there was, as last seen, by process id.
    """
    status = await node.refresh()
    for pid in worker_pids(status):
        with contextlib.suppress(psutil.NoSuchProcess):  # another has taken its place
            busy_s[pid] = _processor_s(pid)
    return Sample(
        at_s=time.perf_counter() - start_s,
        shares_percent={f.name: f.share_effective_percent for f in status.functions},
        busy_s=sum(busy_s.values()),
        control_s=_processor_s(status.pid),
    )


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
