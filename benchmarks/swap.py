"""What does a client notice while shares change? `python -m benchmarks.swap --json OUT [--quick]`

One function at a time serves a Poisson load at a part of what it can do at its smallest share,
while its share goes up and down in random steps. No answer is waited for before the next request
is sent, and a latency counts from when the request was due.

`path` is how the share changed: a shadow took over, or the limit was set in place. A swap's
`hole_us` is the dispatch wait of the first batch after the flip, minus the median dispatch wait
between the resizes, `dispatch_us_p50`: time in which a request was queued and could have been
claimed. `holes` says of how many swaps. In place nobody takes over: there the hole is that of every
batch claimed during a resize, and `prepare_ms` how long lanes were prepared on other SMs, before
they went on there (limiter green). `flip_us` is the flip itself: how long neither worker could
claim, with the wait for the function's lock. `lost` requests got no answer, `errors` were answered
with one (a queue that was full, above all: `waiting_max` is how many had no answer at a time).
What is `during` is of requests that waited or ran at any moment of a resize, with all that loading
a shadow takes from the cores; `steady` is of all others. Identity computes in the pump, which
nothing limits: its share changes in the books, and its rows show what the change itself costs.

With `--stand-ins` the arms of a GPU run over the tests' stand-ins of driver and MPS. They show that
it works, and nothing else: a stand-in has no speed, so its rows are named so and are no figures.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.common import Report, Row, arguments, finish
from benchmarks.gpu import mps
from benchmarks.gpu.victim import victim
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION, OpenLoop, closed_loop
from benchmarks.resizes import (
    DispatchWaits,
    Resize,
    client_figures,
    first_wait_us,
    in_place_figures,
    swap_figures,
)
from benchmarks.wire import infer_request, open_segment, raw_outputs
from gslice.client.control import Control
from gslice.demo.assets import find
from gslice.demo.node import ServedNode
from gslice.device.limiter import availability

QUESTION = "What does a client notice while shares change?"
FUNCTION = "f"
CONCURRENCY = 16  # when the capacity is measured: enough for batches to fill
# As in recovery: where the machine itself stalls for 0.1 s, a queue of the usual 256 is full.
QUEUE = {"queue": {"request_max": "64KiB", "max": 1024}}
FILE_BYTES = np.zeros((1, 2048), np.int32)
ROW = np.zeros((1, 256), np.float32)
NUMBERS = {"x": np.zeros((1, 8), np.int32)}
_SHOWN = (
    *("name", "path", "resizes", "requests", "waiting_max", "lost", "errors", "p99_ms_steady"),
    *("p99_ms_during", "hole_us_p50", "hole_us_p99", "hole_us_max", "flip_us_p50"),
)
IDENTITY = {"inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, ROW.shape[1]]}]}
RATE_MAX_PER_S = 5_000  # more than this client can send evenly


@dataclass(frozen=True)
class Arm:
    """A function on a device, and the shares that it goes through.

    Attributes:
        model: What is served, in words.
        device: In node.yaml.
        limiter: Of the device.
        body: The function in node.yaml, but for device and share.
        inputs: Of every request.
        shares_percent: To go through in random steps, ascending.
        stand_in: Its device is none that figures could be of.
    """

    model: str
    device: str
    limiter: str
    body: Mapping[str, Any]
    inputs: Mapping[str, NDArray[Any]]
    shares_percent: Sequence[int]
    stand_in: bool = False

    @property
    def name(self) -> str:
        """In the rows."""
        return f"{self.model}, {self.limiter}" + ", stand-in: no figure" * self.stand_in

    @property
    def devices(self) -> dict[str, Any]:
        """`devices` of node.yaml."""
        return {self.device: {"limiter": self.limiter}}


@dataclass(frozen=True)
class Plan:
    """How much is measured in each arm.

    Attributes:
        resizes: How many.
        pause_s: Mean time between two of them.
        capacity_s: How long the capacity is measured.
        load_percent: Of the capacity.
        seed: Of arrivals, steps and pauses.
    """

    resizes: int
    pause_s: float
    capacity_s: float
    load_percent: float
    seed: int


def arms() -> list[Arm]:
    """What can be measured here. Whole cores take at least two to divide."""
    cores = len(os.sched_getaffinity(0))
    halves = range((cores + 1) // 2, cores + 1)  # from half of the cores on
    shares = {"threads": [100 * n // cores for n in halves], "cgroup": list(range(50, 101, 5))}
    limiters = [
        limiter.name
        for limiter in availability()
        if limiter.available and len(shares.get(limiter.name, [])) > 1
    ]
    models: dict[str, tuple[dict[str, Any], dict[str, NDArray[Any]]]] = {
        "file type": ({"model": str(find().filetype)}, {"bytes": FILE_BYTES}),
        "identity": ({"identity": IDENTITY}, {"x": ROW}),
    }
    on_cpu = [
        Arm(model, "cpu", limiter, body, inputs, shares[limiter])
        for limiter in limiters
        for model, (body, inputs) in models.items()
    ]
    return [*on_cpu, *gpu_arms()]


def gpu_arms(*, stand_in: bool = False) -> list[Arm]:
    """What can be measured on the GPU that is here, or that is stood in for."""
    shares, limiters = list(range(30, 101, 10)), []
    if mps.is_installed():
        limiters.append("mps")
    if mps.has_green_contexts():
        limiters.append("green")
    return [
        Arm("timed kernel", "cuda:0", limiter, victim(), NUMBERS, shares, stand_in)
        for limiter in limiters
    ]


async def measure(arm: Arm, plan: Plan) -> Row:
    """One arm, on a node of its own."""
    body = {**arm.body, "device": arm.device, "share": f"{arm.shares_percent[-1]}%", **QUEUE}
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        node = ServedNode(
            Path(directory), {FUNCTION: body}, devices=arm.devices, node=ONE_CONNECTION
        )
        async with node, await Connection.connect(node.grpc_address) as connection:
            request = Request(node.grpc_address, INFER, infer_request(FUNCTION, arm.inputs))
            if not raw_outputs(await connection.call(request, keep=True)):
                raise RuntimeError(f"{arm.name} gave an answer without an output")
            with Control(node.directory / "state") as control:
                await resize(control, arm.shares_percent[0])
                capacity = await closed_loop(connection, request, CONCURRENCY, plan.capacity_s)
                rate_per_s = min(capacity.rps * plan.load_percent / 100, RATE_MAX_PER_S)
                segment = open_segment(node.pid, FUNCTION)
                waits, meanwhile = DispatchWaits(segment), DispatchWaits(segment)
                async with OpenLoop(connection, request, rate_per_s, plan.seed) as load:
                    resizes = await go_through(arm, plan, control, waits, meanwhile)
    usual_wait_us = waits.percentile_us(50)
    return {
        "name": arm.name,
        "device": arm.device,
        "limiter": arm.limiter,
        "path": ", ".join(sorted({resize.resized.path for resize in resizes})),
        "resizes": len(resizes),
        "rate_rps": round(rate_per_s, 1),
        "queue_max": QUEUE["queue"]["max"],
        **client_figures(resizes, load.calls),
        "dispatch_us_p50": round(usual_wait_us, 1),
        "dispatch_us_p99": round(waits.percentile_us(99), 1),
        **swap_figures(resizes, usual_wait_us),
        **in_place_figures(resizes, meanwhile, usual_wait_us),
    }


async def go_through(
    arm: Arm, plan: Plan, control: Control, waits: DispatchWaits, meanwhile: DispatchWaits
) -> list[Resize]:
    """Random steps through the shares, from the smallest on, with pauses of random length.

    Args:
        arm: Whose shares.
        plan: How many steps.
        control: Of the node.
        waits: Counts what is claimed between them.
        meanwhile: Counts what is claimed in them.
    """
    choice = random.Random(plan.seed)
    share = arm.shares_percent[0]
    resizes: list[Resize] = []
    await asyncio.sleep(plan.pause_s)
    for _ in range(plan.resizes):
        share = choice.choice([other for other in arm.shares_percent if other != share])
        with meanwhile.counted():
            done = await resize(control, share)
        with waits.counted():
            await asyncio.sleep(plan.pause_s * choice.uniform(0.5, 1.5))
        if done.resized.swaps:
            done = replace(done, first_wait_us=first_wait_us(waits.segment))
        resizes.append(done)
    return resizes


async def resize(control: Control, share_percent: int) -> Resize:
    """Changes the share, and waits until that is done."""

    def carry_out() -> Resize:
        begun_s = time.perf_counter()
        *_, done = control.resize(FUNCTION, f"{share_percent}%")
        return Resize(begun_s, time.perf_counter(), done.resized)

    return await asyncio.to_thread(carry_out)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--resizes", type=int, default=250, help="in each arm")
    parser.add_argument("--load-percent", type=float, default=80, help="of the capacity")
    parser.add_argument(
        "--stand-ins", action="store_true", help="a GPU's arms over stand-ins: no figures"
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, steps and pauses")
    options = parser.parse_args()
    resizes, pause_s, capacity_s = (2, 0.2, 0.2) if options.quick else (options.resizes, 0.3, 5.0)
    plan = Plan(resizes, pause_s, capacity_s, options.load_percent, options.seed)
    settings = {**vars(plan), "repeats": 1, "concurrency_of_capacity": CONCURRENCY}
    report = Report(QUESTION, settings)
    if options.stand_ins:
        from tests.fakes.gpu import FakeGpu

        with FakeGpu() as fake:
            os.environ.update(fake.environment)
            report.rows = [uvloop.run(measure(each, plan)) for each in gpu_arms(stand_in=True)]
    else:
        report.rows = [uvloop.run(measure(arm, plan)) for arm in arms()]
    finish(report, options.json, _SHOWN)


if __name__ == "__main__":
    main()
