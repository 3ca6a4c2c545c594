"""What does a front-end cost? `python -m benchmarks.frontend --json OUT [--quick] [--count]`

Everything of the server (front-end, worker, daemon) runs on one core, h2load on another. Each row's
server takes turns, A B A B, with a bare echo on nghttp2 (`benchmarks/native/echo_nghttp2.cpp`) that
gets the same bytes: what that costs is the price of HTTP/2 on this machine. `echo_ratio` is the
served rate over the echo's of the same pair; rows are medians over the pairs.

`identity_copies` tells whether the function copies its input, as a model would write its output, or
answers with the input where it lies. Rows of the client `gslice shared memory` have their tensors
in memory that client and server share (`benchmarks.frontend.shared`). `server_cpu_us_per_request`
is the processor time of all the server's processes; with both cores busy it is 1e6 / rps. The last
two rows of a front-end are a real model, SqueezeNet 1.1 with one thread, over the wire and through
shared memory: `bare_ratio` compares with onnxruntime alone on that core, which takes turns with
both; meanwhile the server, whose daemon is never quite idle, is on the client's core.

`--count` measures nothing by a clock: system calls (by strace, which slows what it counts),
allocations, context switches and copies of tensors, a request, by process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import uvloop

from benchmarks.common import Report, Row, arguments, finish, some_of
from benchmarks.cores import Cores, two_cores
from benchmarks.frontend import counts, model, shared
from benchmarks.frontend.bare import bare_echo
from benchmarks.frontend.h2load import Width
from benchmarks.frontend.identity import IN_FLIGHT_MAX, Case, functions, kinds, node_of, row_of
from benchmarks.frontend.turns import Plan

QUESTION = "What does a front-end cost? (server on one core, client on another)"
COUNTED = "What does a request cost, counted?"
_SHOWN = (
    *("name", "concurrency", "connections", "rps", "p50_us", "p99_us"),
    *("server_cpu_us_per_request", "echo_rps", "echo_ratio", "bare_ratio"),
)

_COUNTS = ("system_calls", "allocations", "context_switches")
_COUNTS_SHOWN = (
    *("name", "concurrency", "copies"),
    *(f"{role}_{what}" for role in ("frontend", "worker") for what in _COUNTS),
)


def cases(concurrencies: Sequence[int], connections: Sequence[int]) -> list[Case]:
    """What is measured of each front-end, without what a queue could not hold."""
    found = [
        Case(payload_bytes, Width.of(concurrency, number), copies)
        for payload_bytes in IN_FLIGHT_MAX
        for number in connections
        for concurrency in concurrencies
        for copies in (True, False)
    ]
    return [case for case in dict.fromkeys(found) if case.fits]


def of_one(cases: Sequence[Case]) -> list[Case]:
    """Those over one connection: through shared memory, hardly anything goes over it."""
    return [case for case in cases if case.width.connections == 1]


async def measure(
    kinds: Sequence[str], cases: Sequence[Case], cores: Cores, plan: Plan
) -> list[Row]:
    """All rows, a front-end after the other."""
    rows: list[Row] = []
    with bare_echo(cores.server) as bare:
        for kind in kinds:
            async with node_of(kind, functions(), cores) as node:
                rows += [await row_of(case, node, kind, bare, plan) for case in cases]
                rows += [await shared.row_of(case, node, kind, plan) for case in of_one(cases)]
            rows += await model.rows_of(kind, cores, plan)
    return rows


def numbers(text: str) -> list[int]:
    """`8,32` as a list."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", action="store_true", help="count what a request costs instead")
    parser.add_argument("--frontends", type=some_of(kinds()), default=kinds())
    parser.add_argument("--concurrency", type=numbers, default=[8, 32], help="calls in flight")
    parser.add_argument("--connections", type=numbers, default=[1], help="1,4,1000: rows for each")
    parser.add_argument("--seconds", type=float, default=2.0, help="about the length of one run")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    options = parser.parse_args()
    cores = two_cores()
    if options.quick:
        options.concurrency, options.connections = options.concurrency[:1], options.connections[:1]
        options.seconds, options.repeats = 0.1, 1
    plan = Plan(options.seconds, options.repeats, cores.client)
    os.sched_setaffinity(0, {cores.client})
    chosen = cases(options.concurrency, options.connections)
    settings = {"seconds": plan.seconds, "repeats": plan.repeats, "cores": vars(cores)}
    if options.count:
        report = Report(COUNTED, {"requests": counts.REQUESTS, **settings})
        report.rows = uvloop.run(counts.measure(options.frontends, chosen, cores))
        finish(report, options.json, _COUNTS_SHOWN)
        return
    report = Report(QUESTION, settings)
    report.rows = uvloop.run(measure(options.frontends, chosen, cores, plan))
    finish(report, options.json, _SHOWN)


if __name__ == "__main__":
    main()
