"""How long does nobody answer when a busy worker dies? `python -m benchmarks.recovery --json OUT`

A real model under an open loop at 60 % of what it can do (less where its queue would fill: see
`load_percent`); its worker is killed with SIGKILL while it computes. Recovery is the time from the
kill to the first answer to a request that the dead worker had not answered, which the segment's own
count of answers tells, read when it is dead. Every answer is compared with the one that belongs to
the request; `lost` requests never got one, `duplicated_replies` are answers beyond the first.

Each kill waits until the spare is there again, and for a random time more. The restart of a worker
backs off, and is given up, by the deaths of its function in the last minute, so the kills go round
a ring of functions of the same model, each of which was left alone for longer than that: every
death is a first one. The load moves with them.

Where a GPU and MPS are, the same is done to functions there, of a timed kernel (benchmarks/gpu/
victim.py): by SIGKILL, and by a fault, which ends all clients of the GPU at once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from benchmarks.common import Report, Row, arguments, finish
from benchmarks.gpu import mps
from benchmarks.gpu.victim import order_fault, victim
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION, closed_loop
from benchmarks.open_loop import CheckedLoop, Question, Sent
from benchmarks.wire import infer_request, open_segment, raw_outputs
from gslice._native import Segment
from gslice.client.load import percentile
from gslice.control.breaker import RestartPolicy
from gslice.core.errors import DeadlineExceeded
from gslice.demo.assets import find
from gslice.demo.node import ServedNode

QUESTION = "How long does nobody answer when a busy worker is killed?"
LOAD = 0.6
CONCURRENCY = 4  # that saturates it
QUESTIONS = 4
QUEUE_MAX = 1024
QUEUE = {"request_max": "64KiB", "max": QUEUE_MAX}
RATE_MAX_PER_S = QUEUE_MAX / 10  # nothing is refused for a full queue before 10 s without answer
RECOVERY_TIMEOUT_S = 30.0
GAP_MAX_S = 0.5
MIB = 1 << 20


@dataclass(frozen=True)
class Arm:
    """A way to lose a worker.

    Attributes:
        name: In the rows.
        kills: How many of a full run.
        spares: `node.spares`.
        body: Of a function, as in node.yaml.
        inputs: Makes one request's.
        devices: As in node.yaml.
        strike: Ends a worker, by its process id.
    """

    name: str
    kills: int
    spares: int
    body: dict[str, Any]
    inputs: Callable[[np.random.Generator], dict[str, Any]]
    devices: dict[str, Any] = field(default_factory=lambda: {"cpu": {"limiter": "none"}})
    strike: Callable[[int], None] = lambda pid: os.kill(pid, signal.SIGKILL)


def arms(kills: int, folder: Path) -> list[Arm]:
    """Those that this machine can run.

    Args:
        kills: How many with a spare; a quarter of that without.
        folder: Of the benchmark, for orders to functions.
    """
    fewer = max(1, kills // 4)
    return [
        *_cpu_arms(kills, fewer),
        *(_mps_arms(kills, fewer, folder) if mps.is_installed() else []),
    ]


def _cpu_arms(kills: int, fewer: int) -> list[Arm]:
    model = {
        "model": str(find().filetype),
        "threads": 1,
        "batch": {"max": 1},
        "queue": QUEUE,
    }
    return [
        Arm("cpu, spare", kills, 1, model, _file_bytes),
        Arm("cpu, no spare", fewer, 0, model, _file_bytes),
    ]


def _mps_arms(kills: int, fewer: int, folder: Path) -> list[Arm]:
    body = {**victim(folder), "device": "cuda:0", "queue": QUEUE}
    devices = {"cuda:0": {"limiter": "mps"}}
    return [
        Arm("mps, spare", kills, 1, body, _numbers, devices),
        Arm("mps, no spare", fewer, 0, body, _numbers, devices),
        Arm("mps fault, spare", fewer, 1, body, _numbers, devices, partial(order_fault, folder)),
    ]


async def measure(arm: Arm, ring: int, rest_s: float) -> Row:
    """All kills of one arm.

    Args:
        arm: Which.
        ring: Functions that take turns.
        rest_s: How long each is left alone after its worker was killed.
    """
    names = [f"f{index}" for index in range(ring)]
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        node = ServedNode(
            Path(directory),
            dict.fromkeys(names, arm.body),
            devices=arm.devices,
            node={"spares": arm.spares, **ONE_CONNECTION},
        )
        async with node, await Connection.connect(node.grpc_address) as connection:
            payloads = _payloads(arm)
            right = await _right_answers(connection, node.grpc_address, names[0], payloads)
            questions = {
                name: [
                    Question(
                        Request(node.grpc_address, INFER, infer_request(name, inputs)),
                        partial(_is_right, right[index]),
                    )
                    for index, inputs in enumerate(payloads)
                ]
                for name in names
            }
            first = questions[names[0]][0].request
            capacity = await closed_loop(connection, first, CONCURRENCY, 3.0)
            rate_per_s = min(LOAD * capacity.rps, RATE_MAX_PER_S)
            loop = CheckedLoop(connection, questions, rate_per_s)
            async with loop:
                drill = Drill(arm, node, loop, rest_s)
                for number in range(arm.kills):
                    await drill.kill(names[number % ring])
    ascending = sorted(drill.recoveries_ms)
    return {
        "name": arm.name,
        "kills": len(ascending),
        "requests": loop.requests,
        "lost": len(loop.waiting),
        "duplicated_replies": connection.stray,
        "errors": loop.errors.total(),
        "recovery_ms_p50": round(percentile(ascending, 50), 1),
        "recovery_ms_p99": round(percentile(ascending, 99), 1),
        "recovery_ms_max": round(ascending[-1], 1),
        "rate_per_s": round(rate_per_s, 1),
        "load_percent": round(100 * rate_per_s / capacity.rps),
        "spare_pss_mb": round(drill.spare_pss_bytes / MIB, 1),
        **({"seen": "; ".join(sorted(loop.errors))} if loop.errors else {}),
    }


class Drill:
    """Kills one busy worker after the other, and takes the time.

    Args:
        arm: How.
        node: Where.
        loop: The load.
        rest_s: How long a function is left alone.

    Attributes:
        recoveries_ms: Of each kill.
        spare_pss_bytes: What a spare took of the memory, beside the workers.
    """

    def __init__(self, arm: Arm, node: ServedNode, loop: CheckedLoop, rest_s: float) -> None:
        self.recoveries_ms: list[float] = []
        self.spare_pss_bytes = 0
        self._arm = arm
        self._node = node
        self._loop = loop
        self._rest_s = rest_s
        self._killed_s: dict[str, float] = {}
        self._random = random.Random(1)

    async def kill(self, name: str) -> None:
        """Moves the load to a function, and kills its worker in the middle of a request."""
        struck = False
        while not struck:
            rested_s = self._killed_s.get(name, -self._rest_s) + self._rest_s
            await asyncio.sleep(max(0.0, rested_s - time.perf_counter()))
            pid = await self._ready(name)
            struck = await self._strike(name, pid, open_segment(pid, name))

    async def _strike(self, name: str, pid: int, segment: Segment) -> bool:
        """Kills a worker; False: it had just answered all there was, so nobody waited."""
        loop = self._loop
        uncounted = _answered(segment) - loop.answers[name]  # the load is still elsewhere
        loop.function = name
        await asyncio.sleep(self._random.uniform(GAP_MAX_S / 5, GAP_MAX_S))
        while segment.counts()["claimed"] == 0:  # noqa: ASYNC110 -- shared memory has no event
            await asyncio.sleep(0.0005)
        pidfd = os.pidfd_open(pid)
        try:
            killed_s = time.perf_counter()
            self._arm.strike(pid)
            await _readable(pidfd)
        finally:
            os.close(pidfd)
        self._killed_s[name] = killed_s
        answered = _answered(segment) - uncounted
        counts = segment.counts()
        if counts["queued"] == counts["claimed"] == 0:
            return False
        # Only now: before a fault ends it, it answers some of those that waited at the order.
        waiting = {sent for sent in loop.waiting if sent.function == name}

        def recovered() -> Sent | None:
            late = [sent for sent in waiting if sent.number > answered]
            return min(late, key=lambda sent: sent.number, default=None)

        first = await loop.first(recovered, RECOVERY_TIMEOUT_S)
        self.recoveries_ms.append((first.answered_s - killed_s) * 1e3)
        return True

    async def _ready(self, name: str) -> int:
        """Waits until nobody is on the way and the spare is there; the function's worker."""
        deadline_s = time.perf_counter() + RECOVERY_TIMEOUT_S
        while time.perf_counter() < deadline_s:
            status = await self._node.refresh()
            ready = all(f.state == "READY" and len(f.workers) == 1 for f in status.functions)
            if ready and len(status.spares) >= self._arm.spares:
                if status.spares:
                    spare = psutil.Process(status.spares[0].pid)
                    self.spare_pss_bytes = spare.memory_full_info().pss
                (pid,) = (f.workers[0].pid for f in status.functions if f.name == name)
                return int(pid)
            await asyncio.sleep(0.05)
        raise DeadlineExceeded(f"no worker, or no spare, after {RECOVERY_TIMEOUT_S:g} s")


def _is_right(right: list[bytes], answer: bytes) -> bool:
    return raw_outputs(answer) == right


def _answered(segment: Segment) -> int:
    return int(segment.stats()["outcome"]["ok"])


async def _readable(fd: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)


def _payloads(arm: Arm) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [arm.inputs(generator) for _ in range(QUESTIONS)]


def _numbers(generator: np.random.Generator) -> dict[str, Any]:
    return {"x": generator.integers(0, 256, (1, 8), np.int32)}


def _file_bytes(generator: np.random.Generator) -> dict[str, Any]:
    return {"bytes": generator.integers(0, 256, (1, 2048), np.int32)}


async def _right_answers(
    connection: Connection, address: str, name: str, payloads: list[dict[str, Any]]
) -> list[list[bytes]]:
    """What belongs to each payload; no two may be the same."""
    found = []
    for inputs in payloads:
        request = Request(address, INFER, infer_request(name, inputs))
        found.append(raw_outputs(await connection.call(request, keep=True)))
    if any(one == other for i, one in enumerate(found) for other in found[:i]):
        raise RuntimeError("two inputs have the same answer: mixed-up answers would not show")
    return found


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=200, help="of the arm with a spare")
    parser.add_argument("--ring", type=int, default=20, help="functions that take turns")
    options = parser.parse_args()
    kills, ring = (2, 2) if options.quick else (options.kills, options.ring)
    rest_s = RestartPolicy().window_us / 1e6 + 1.0
    settings = {"kills": kills, "ring": ring, "rest_s": rest_s, "load": LOAD, "repeats": 1}
    report = Report(QUESTION, settings)
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as folder:
        for arm in arms(kills, Path(folder)):
            report.rows.append(uvloop.run(measure(arm, ring, rest_s)))
    finish(report, options.json)


if __name__ == "__main__":
    main()
