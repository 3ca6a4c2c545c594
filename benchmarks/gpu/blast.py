"""A fault in one function: who stops with it, for how long, and is every request answered once?

A daemon serves a victim and a neighbour, each under a Poisson load whose answers are all checked;
then a kernel of the victim writes where nothing is. Ways to live together:

    mps          both are MPS clients of the GPU
    exclusive    the victim has `isolation: exclusive`; the neighbour is on another device: the
                 second GPU, or the CPU
    none         both are on the GPU, without MPS: they take turns
    green        both are in the GPU's one process, on SMs of their own

A function has stopped if another worker took its place. `stopped_ms` is its longest time without an
answer, from the fault on; `usual_gap_ms` the longest before. `lost` requests were never answered,
`duplicated_replies` are answers beyond the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.common import Row
from benchmarks.gpu import mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main
from benchmarks.gpu.victim import order_fault, victim
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION
from benchmarks.open_loop import CheckedLoop, Question, Sent
from benchmarks.wire import infer_request, raw_outputs
from gslice.core.config.load import load_config_text
from gslice.core.errors import DeadlineExceeded, GsliceError
from gslice.demo.node import ServedNode
from gslice.device.inventory import read_inventory

VICTIM, NEIGHBOUR = "victim", "neighbour"
NAMES = (VICTIM, NEIGHBOUR)
RATE_PER_S = 80.0
QUESTIONS = 4
ROUNDS = 3
BEFORE_S = 1.5
AFTER_S = 1.0
RECOVERY_TIMEOUT_S = 60.0
GPU = "cuda:0"
_QUEUE = {"queue": {"request_max": "64KiB", "max": 1024}}  # nothing is refused in ten seconds
_IDENTITY = {"identity": {"inputs": [{"name": "x", "dtype": "INT32", "dims": [-1, 8]}]}}


@dataclass(frozen=True)
class Way:
    """How victim and neighbour live together.

    Attributes:
        name: In the rows.
        devices: `devices` of node.yaml.
        victim: Its settings, beside those that it always has.
        neighbour: Likewise, with all that it is on another kind of device.
    """

    name: str
    devices: Mapping[str, Any]
    victim: Mapping[str, Any]
    neighbour: Mapping[str, Any]

    def functions(self, folder: Path) -> dict[str, Any]:
        """`functions` of node.yaml; only the victim looks for orders to fault."""
        beside = {} if "identity" in self.neighbour else victim()
        return {
            VICTIM: {**victim(folder), **_QUEUE, **self.victim},
            NEIGHBOUR: {**beside, **_QUEUE, **self.neighbour},
        }


def ways(gpus: int) -> list[Way]:
    """All of them, whether they can be had here or not.

    Args:
        gpus: Of the machine.
    """
    half = {"device": GPU, "share": "40%"}
    whole = {"device": GPU}
    away: dict[str, Any] = {"device": "cuda:1"} if gpus > 1 else {**_IDENTITY, "device": "cpu"}
    other = {away["device"]: {"limiter": "none"}}
    return [
        Way("mps", {GPU: {"limiter": "mps"}}, half, half),
        Way(
            *("exclusive", {GPU: {"limiter": "auto"}, **other}),
            *({**whole, "isolation": "exclusive"}, away),
        ),
        Way("none", {GPU: {"limiter": "none"}}, whole, whole),
        Way("green", {GPU: {"limiter": "green"}}, half, half),
    ]


def refusal(way: Way) -> str:
    """Why there is no such way here; empty: there is."""
    if way.name == "mps" and not mps.is_installed():
        return "there is no MPS here"
    node = {"version": 1, "devices": way.devices, "functions": way.functions(Path())}
    try:
        load_config_text(json.dumps(node), Path("node.yaml"))
    except GsliceError as error:
        return error.message.splitlines()[0]
    return ""


@dataclass
class Seen:
    """What clients saw of a function around a fault; times are seconds after it.

    Attributes:
        restarted: Another worker took its place.
        answers: When each request was due, and when it was answered, in the order of answers.
        requests: Sent.
        lost: Never answered.
        duplicated: Answers beyond the first.
        errors: What else was answered, and how often.
    """

    restarted: bool
    answers: list[tuple[float, float]]
    requests: int = 0
    lost: int = 0
    duplicated: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)

    def gap_ms(self, *, before: bool) -> float:
        """The longest time between two answers that ended before the fault, or after it."""
        times = pairwise(answered_s for _, answered_s in self.answers)
        gaps = [end_s - begin_s for begin_s, end_s in times if (end_s <= 0) == before]
        return 1e3 * max(gaps, default=0.0)

    def latency_ms(self) -> float:
        """The longest of those that were answered after the fault."""
        return 1e3 * max((end - due for due, end in self.answers if end > 0), default=0.0)


def measure(report: GpuReport, clock: Clock) -> None:
    """Two rows for each way; the step fails if a request was lost, or answered twice or wrongly."""
    report.setting(rate_per_s=RATE_PER_S, rounds=ROUNDS)
    chosen = ways(len(read_inventory().gpus))
    answers: dict[str, Any] = {}
    for done, way in enumerate(chosen):
        if reason := refusal(way):
            report.add(way.name, way=way.name, skipped=reason)
        else:
            rounds = _rounds(way, clock.share_s(len(chosen) - done))
            for name in NAMES:
                report.add(f"{way.name}, {name}", **figures(way.name, [r[name] for r in rounds]))
            answers[way.name] = {
                name: [[round(at, 4) for at in pair] for pair in rounds[-1][name].answers]
                for name in NAMES
            }
            report.setting(answers=answers)
        report.headline(headline(report.rows))
    if broken(report.rows):
        sys.exit(headline(report.rows))


def _rounds(way: Way, seconds: float) -> list[dict[str, Seen]]:
    """As many as there is time for, each with a node of its own: the first death of a worker."""
    clock = Clock(seconds)
    found: list[dict[str, Seen]] = []
    while not found or (
        len(found) < ROUNDS and clock.left_s > (seconds - clock.left_s) / len(found)
    ):
        found.append(uvloop.run(drill(way)))
    return found


async def drill(
    way: Way,
    rate_per_s: float = RATE_PER_S,
    before_s: float = BEFORE_S,
    after_s: float = AFTER_S,
) -> dict[str, Seen]:
    """One fault; what clients saw of each function.

    Args:
        way: How they live together.
        rate_per_s: Of each function's requests.
        before_s: How long both serve before.
        after_s: How long both serve when all are back.
    """
    with (
        tempfile.TemporaryDirectory(prefix="gs-blast-") as directory,
        tempfile.TemporaryDirectory(prefix="gs-order-") as orders,
    ):
        node = ServedNode(
            Path(directory),
            way.functions(Path(orders)),
            devices=way.devices,
            node={"spares": 1, **ONE_CONNECTION},
        )
        async with node, contextlib.AsyncExitStack() as stack:
            sides = [await _Side.open(stack, node.grpc_address, name, rate_per_s) for name in NAMES]
            async with contextlib.AsyncExitStack() as loads:
                for side in sides:
                    await loads.enter_async_context(side.loop)
                await asyncio.sleep(before_s)
                before = _pids(await node.refresh())
                struck_s = time.perf_counter()
                order_fault(Path(orders), before[VICTIM])
                after = await _recovered(node, before[VICTIM])
                for side in sides:
                    await side.answers_again()
                await asyncio.sleep(after_s)
            return {
                side.name: side.seen(struck_s, before[side.name] != after[side.name])
                for side in sides
            }


class _Side:
    """One function's clients.

    Attributes:
        name: Of the function.
        loop: Its load.
    """

    def __init__(
        self, name: str, connection: Connection, questions: list[Question], rate_per_s: float
    ) -> None:
        self.name = name
        self._answers: list[Sent] = []
        self._connection = connection
        self.loop = CheckedLoop(
            *(connection, {name: questions}, rate_per_s),
            seed=NAMES.index(name),
            answered=self._answers.append,
        )

    @classmethod
    async def open(
        cls, stack: contextlib.AsyncExitStack, address: str, name: str, rate_per_s: float
    ) -> _Side:
        """Connects, and asks what is right."""
        connection = await stack.enter_async_context(await Connection.connect(address))
        questions = []
        for number in range(QUESTIONS):
            x = np.full((1, 8), number, np.int32)
            request = Request(address, INFER, infer_request(name, {"x": x}))
            answer = raw_outputs(await connection.call(request, keep=True))
            if answer != [x.tobytes()]:
                raise RuntimeError(f"{name} answers wrongly before any fault")
            questions.append(Question(request, partial(_is_right, answer)))
        return cls(name, connection, questions, rate_per_s)

    async def answers_again(self) -> None:
        """Waits for an answer to a request that is sent from now on."""
        now_s = time.perf_counter()

        def late() -> Sent | None:
            last = self._answers[-1] if self._answers else None
            return last if last is not None and last.due_s > now_s else None

        await self.loop.first(late, RECOVERY_TIMEOUT_S)

    def seen(self, struck_s: float, restarted: bool) -> Seen:
        """What they saw; the load has ended."""
        return Seen(
            restarted,
            [(sent.due_s - struck_s, sent.answered_s - struck_s) for sent in self._answers],
            self.loop.requests,
            len(self.loop.waiting),
            self._connection.stray,
            dict(self.loop.errors),
        )


def _is_right(right: list[bytes], answer: bytes) -> bool:
    return raw_outputs(answer) == right


def _pids(status: Any) -> dict[str, int]:
    return {f.name: f.workers[0].pid for f in status.functions if len(f.workers) == 1}


async def _recovered(node: ServedNode, struck: int) -> dict[str, int]:
    """Waits until everybody serves, the victim by another worker; the workers then.

    Raises:
        DeadlineExceeded: They do not.
    """
    deadline_s = time.perf_counter() + RECOVERY_TIMEOUT_S
    while time.perf_counter() < deadline_s:
        status = await node.refresh()
        pids = _pids(status)
        ready = all(function.state == "READY" for function in status.functions)
        if ready and len(pids) == len(NAMES) and pids[VICTIM] != struck:
            return pids
        await asyncio.sleep(0.05)
    raise DeadlineExceeded(f"not all functions are back after {RECOVERY_TIMEOUT_S:g} s")


def figures(way: str, rounds: Sequence[Seen]) -> Row:
    """The figures of one function in one way."""
    stopped = [seen.gap_ms(before=False) for seen in rounds]
    errors = sorted({text for seen in rounds for text in seen.errors})
    return {
        "way": way,
        "faults": len(rounds),
        "restarted": sum(seen.restarted for seen in rounds),
        "stopped_ms": round(statistics.median(stopped), 1),
        "stopped_ms_max": round(max(stopped), 1),
        "usual_gap_ms": round(max(seen.gap_ms(before=True) for seen in rounds), 1),
        "latency_ms_max": round(max(seen.latency_ms() for seen in rounds), 1),
        "requests": sum(seen.requests for seen in rounds),
        "lost": sum(seen.lost for seen in rounds),
        "duplicated_replies": sum(seen.duplicated for seen in rounds),
        "errors": sum(count for seen in rounds for count in seen.errors.values()),
        **({"seen": "; ".join(errors)} if errors else {}),
    }


def broken(rows: Sequence[Row]) -> str:
    """What must not be: requests that were lost, or answered twice or wrongly; empty: none."""
    kinds = ("lost", "duplicated_replies", "errors")
    counts = {kind: sum(row.get(kind, 0) for row in rows) for kind in kinds}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def headline(rows: Sequence[Row]) -> str:
    """Who stopped in each way, and whether all were answered."""
    told = []
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        if "skipped" in mine[0]:
            told.append(f"{way}: skipped ({mine[0]['skipped']})")
            continue
        parts = [
            f"{row['name'].partition(', ')[2]} "
            + (f"stops for {row['stopped_ms']:.0f} ms" if row["restarted"] else "serves on")
            for row in mine
        ]
        told.append(f"{way}: {', '.join(parts)}")
    return "; ".join([*told, broken(rows) or "every request was answered once"])


if __name__ == "__main__":
    main("blast", measure)
