"""Which server answers the same requests fastest on one core?

    python -m benchmarks.peers --json OUT [--environments DIR] [--peers gslice,mlserver,...]
                               [--streams identity-1k,identity-600k,onnx] [--seconds S] [--quick]

gslice races against each peer that is installed (README.md beside this file says how), one pair
at a time: both servers are up, and take turns, A B A B. All processes of both are on one core, the
client on another. Each is set up from its documentation, in a file of its own; the JSON has its
version, configuration and command lines. One request at a time is computed everywhere, with one
thread.

A row is a server under a load. `closed 32` keeps 32 calls in flight; our driver runs it, and so do
h2load and, where both servers have what it asks for, perf_analyzer, if they are installed; all of
them by count. `open 80 %` sends at the times of a Poisson process, at 80 % of what the slower of
the pair gave our driver in its closed loop: of what h2load reached, the driver could fall short.
Each latency counts from when its request was due, so no queue hides, and `late_p99_us` is how late
the driver itself was. Percentiles are of an HDR histogram; null where too few requests came to
tell. Figures are medians of the turns. `ratio_to_gslice` is the rate over gslice's, turn by turn,
`p99_ratio_to_gslice` likewise its p99: under an open load, compare that.
`server_cpu_us_per_request` and memory are of all the server's processes; `server_rss_bytes` counts
what they share in each, `server_pss_bytes` once. `server_idle_percent` is what it takes from the
core while it is the other's turn. A peer that is not installed or does not start has a row that
says so.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import uvloop

from benchmarks import h2load
from benchmarks.common import Report, arguments, finish, some_of
from benchmarks.cores import ROOT, Cores, two_cores
from benchmarks.peers import perf_analyzer
from benchmarks.peers.gslice import Gslice
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.mosec import Mosec
from benchmarks.peers.peer import Installed, NotInstalled, Peer
from benchmarks.peers.race import Plan, race
from benchmarks.peers.rows import BASE, SHOWN, absent, rows_of, setup
from benchmarks.peers.server import Failed
from benchmarks.peers.streams import streams
from benchmarks.peers.triton import Triton

QUESTION = "Which server answers the same requests fastest on one core?"
PEERS: dict[str, Callable[[], Peer]] = {
    "mlserver": MLServer,
    "mosec": Mosec,
    "litserve": LitServe,
    "triton": Triton,
}
QUICK = Plan(seconds=0.3, repeats=1)


async def measure(report: Report, options: argparse.Namespace, plan: Plan, cores: Cores) -> None:
    """Every stream against every peer; rows come as they are known."""
    os.sched_setaffinity(0, {cores.client})
    gslice = Gslice(options.frontend)
    mine = gslice.find(options.environments)
    opponents: list[tuple[Peer, Installed]] = []
    for name in options.peers:
        if name == BASE:
            continue
        peer = PEERS[name]()
        try:
            opponents.append((peer, peer.find(options.environments)))
        except NotInstalled as reason:
            report.rows.append(absent(name, f"not installed: {reason}"))
    pairs = [[(gslice, mine), opponent] for opponent in opponents] or [[(gslice, mine)]]
    for name in options.streams:
        stream = streams()[name]()
        for pair in pairs:
            print(f"{name}: {' and '.join(peer.name for peer, _ in pair)}", flush=True)
            try:
                racers = await race(pair, stream, plan, cores.server)
            except Failed as reason:
                report.rows.append(absent(reason.server, f"failed: {reason}", name))
                continue
            report.rows += rows_of(racers, name)
            for racer in racers:
                report.settings["servers"][f"{racer.peer.name}, {name}"] = setup(racer)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        *("--environments", "-e"),
        type=Path,
        default=ROOT / "build" / "peers",
        metavar="DIR",
        help="a folder of the peers' environments; default: build/peers",
    )
    known = [BASE, *PEERS]
    parser.add_argument("--peers", type=some_of(known), default=known, metavar="A,B")
    parser.add_argument(
        "--streams", type=some_of(list(streams())), default=list(streams()), metavar="A,B"
    )
    parser.add_argument("--frontend", default="", help="node.frontend of gslice")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each load")
    return parser.parse_args()


def _analyzer(environments: Path) -> tuple[str, str]:
    """perf_analyzer, if it runs, and its version, or why there is none."""
    program = perf_analyzer.find(environments)
    if not program:
        return "", "not installed"
    try:
        return program, perf_analyzer.version(program)
    except RuntimeError as reason:
        return "", f"does not run: {reason}"


def main() -> None:
    options = _options()
    plan = QUICK if options.quick else Plan(options.seconds, options.repeats)
    analyzer, analyzer_version = _analyzer(options.environments)
    plan = replace(plan, perf_analyzer=analyzer)
    cores = two_cores()
    settings = {
        "seconds": plan.seconds,
        "repeats": plan.repeats,
        "cores": vars(cores),
        "h2load": h2load.find() or "not installed",
        "perf_analyzer": analyzer_version,
        "servers": {},
    }
    report = Report(QUESTION, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended then, too
    uvloop.run(measure(report, options, plan, cores))
    finish(report, options.json, SHOWN)
    if any(row["status"].startswith("failed") for row in report.rows):
        raise SystemExit("a server failed; its rows say why")


if __name__ == "__main__":
    main()
