"""Two servers take turns under the same load, A B A B: a shared machine's speed wanders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common import Row, medians
from benchmarks.frontend.h2load import Width, h2load
from benchmarks.frontend.processes import cpu_ns
from benchmarks.http2 import Connection, Request
from benchmarks.load import Load

WARM_UP_REQUESTS = 20  # for each call in flight
SPREAD_OF = ("rps", "echo_ratio", "bare_ratio")
H2LOAD = "h2load"
SHARED_MEMORY = "gslice shared memory"


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        seconds: About how long a run takes: as many requests as the warm-up says.
        repeats: Pairs of runs.
        core: Where the client runs.
    """

    seconds: float
    repeats: int
    core: int

    def requests(self, warm: Row, width: Width) -> int:
        """How many requests one run has."""
        return max(WARM_UP_REQUESTS * width.concurrency, int(warm["rps"] * self.seconds))


@dataclass(frozen=True)
class Subject:
    """A server, and what it is asked.

    Attributes:
        request: The call.
        answer_bytes: Size of the message that answers it.
        pids: All processes of the server.
    """

    request: Request
    answer_bytes: int
    pids: Sequence[int]

    def run(self, requests: int, width: Width, core: int) -> Row:
        """Figures of one run."""
        before_ns = cpu_ns(self.pids)
        load = h2load(self.request, self.answer_bytes, requests, width, core)
        return figures(load, cpu_ns(self.pids) - before_ns)


def head(
    function: str, frontend: str, payload_bytes: int, width: Width, client: str = H2LOAD
) -> Row:
    """What every row begins with."""
    way = " through shared memory" if client == SHARED_MEMORY else ""
    return {
        "name": f"{frontend} {function}{way}",
        "frontend": frontend,
        "payload_bytes": payload_bytes,
        "concurrency": width.concurrency,
        "connections": width.connections,
        "client": client,
    }


def figures(load: Load, server_cpu_ns: int) -> Row:
    """What every row has of a run."""
    return {
        "rps": load.rps,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        "server_cpu_us_per_request": server_cpu_ns / 1e3 / load.requests,
        "client_cpu_us_per_request": load.client_cpu_us,
    }


async def ask(request: Request) -> bytes:
    """Calls once.

    Returns:
        The message of the answer.
    """
    async with await Connection.connect(request.authority) as connection:
        return await connection.call(request, keep=True)


def compare(served: Subject, echo: Subject, width: Width, plan: Plan) -> Row:
    """Medians over pairs of runs; `echo_ratio` is the served rate over the echo's of its pair."""
    counts = [
        plan.requests(subject.run(WARM_UP_REQUESTS * width.concurrency, width, plan.core), width)
        for subject in (served, echo)
    ]
    runs = []
    for _ in range(plan.repeats):
        ours, bare = (
            subject.run(count, width, plan.core)
            for subject, count in zip((served, echo), counts, strict=True)
        )
        ratio = ours["rps"] / bare["rps"]
        runs.append(ours | {f"echo_{key}": bare[key] for key in bare} | {"echo_ratio": ratio})
    return medians(runs, SPREAD_OF)
