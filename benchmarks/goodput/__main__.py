"""Which way of dividing devices answers most requests in time?

    python -m benchmarks.goodput --mode sim --json OUT [--quick] [--workloads ...] [--policies ...]
    python -m benchmarks.goodput --mode live --json OUT [--quick] [--plot PNG]

`sim` is a discrete-event simulation: true batch times are published measurements
(`benchmarks.goodput.published`), with co-run interference and noise; policies get a noisy profile
at a few points and what a daemon would see. It yields no figure of any machine.

`slo` is the product's controller. Where it has functions take turns on a device, that is earliest
deadline first, the sum of the shares that run at a time within the device, nobody passes the head,
and taking turns costs nothing; `side_by_side` is the same controller without turns. `timeshare`
runs one batch at a time, round robin.

`live` measures this machine: a daemon, two models and one load step on the CPU device
(`benchmarks.goodput.live`). `slo` is the controller; `fixed A:B` are shares of the two functions
that it may not move, while it chooses batches and turns requests away; `equal` is 50:50 without a
controller, `static` the best of all these; `uncontrolled` limits nobody.

Every run is repeated with several seeds, the same for every policy; rows are medians.
`goodput_rps` are requests answered within their SLO, a second; `violation_pct` those that were
not, of all `requests` that came: late, turned away or given up by their client. `late_pct` is of
the answered ones. `slo_kept_pct` says in how many windows of ten seconds 99 % of a function's
requests were in time. `unforeseen_violation_pct` is a part of `violation_pct`: what came within
three seconds of a half second that brought the function more than any of the 100 seconds before.
Nobody knew, and a share takes two seconds to prepare; the oracle knows, and waits for nothing.
Declared warm-ups (the beginning, and five seconds after a step) are left out everywhere and shown
as `warm_up_violation_pct`. `util_pct` is time of batches times their share; live, processor time
of the workers in percent of the device. `resizes` are changes of a function's share.
`oracle_ratio` is the goodput over that of `oracle`: the best of its plans and of the static grid;
live there is none, and `vs_static` compares with the best fixed shares. `control_core_pct` is the
policy's own processor time, in percent of a core; live, all of the daemon's. `vs_timeshare` and
`vs_better` compare with time sharing and with the better of equal shares and no control.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Report, Row, arguments, finish
from benchmarks.goodput import simulate
from benchmarks.goodput.policies import POLICIES
from benchmarks.goodput.report import JUDGED_S, PERCENTILE, figures, row
from benchmarks.goodput.simulate import Run, goodput_rps, run, setting
from benchmarks.goodput.workloads import Workload, workloads

QUESTION = "Which way of dividing devices answers most requests in time? (simulation)"
QUICK_S = 20.0
LIVE_S = 80.0
GRID_PERCENT = 15.0
_SHOWN = (
    *(
        "name",
        "goodput_rps",
        "violation_pct",
        "unforeseen_violation_pct",
        "slo_kept_pct",
        "util_pct",
        "resizes",
    ),
    *("oracle_ratio", "vs_static", "vs_timeshare", "vs_better", "control_core_pct"),
)
_REFERENCES = ("timeshare", "equal", "uncontrolled")


def rows_of(workload: Workload, policies: list[str], seeds: int) -> list[Row]:
    """All rows of a workload."""
    figures_of: dict[str, list[dict[str, float]]] = {name: [] for name in policies}
    for seed in range(seeds):
        given = setting(workload, seed)
        runs = {name: run(given, POLICIES[name]) for name in policies}
        if {"oracle", "static"} <= runs.keys():
            runs["oracle"] = max(
                (runs["oracle"], runs["static"]), key=lambda each: goodput_rps(workload, each)
            )
        for name, ran in runs.items():
            figures_of[name].append(figures(workload, ran) | _compared(workload, ran, runs))
    return [row(workload, name, each) for name, each in figures_of.items()]


def _compared(workload: Workload, ran: Run, runs: dict[str, Run]) -> dict[str, float]:
    """Goodput over that of others, as far as they ran."""
    goodput = goodput_rps(workload, ran)
    others = {name: max(1e-9, goodput_rps(workload, each)) for name, each in runs.items()}
    ratios = {}
    if "oracle" in others:
        ratios["oracle_ratio"] = goodput / others["oracle"]
    if set(_REFERENCES) <= others.keys():
        ratios["vs_timeshare"] = goodput / others["timeshare"]
        ratios["vs_better"] = goodput / max(others["equal"], others["uncontrolled"])
    return ratios


def _arguments() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--mode", choices=["sim", "live"], default="sim", help="see above")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, at least 3 for figures")
    sim = parser.add_argument_group("sim")
    sim.add_argument(
        "--workloads", nargs="+", choices=workloads(), default=list(workloads()), metavar="NAME"
    )
    sim.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME"
    )
    live = parser.add_argument_group("live")
    live.add_argument("--seconds", type=float, default=LIVE_S, help="length of a run")
    live.add_argument("--plot", type=Path, metavar="PNG", help="draw slo beside the best shares")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    report = (_live if options.mode == "live" else _simulation)(options)
    finish(report, options.json, _SHOWN)


def _simulation(options: argparse.Namespace) -> Report:
    seeds = 1 if options.quick else options.seeds
    settings = {
        "mode": "simulation",
        "repeats": seeds,
        "look_s": simulate.LOOK_US / 1e6,
        "prepare_s": simulate.PREPARE_US / 1e6,
        "share_step_percent": simulate.STEP_PERCENT,
        "noise_sigma": simulate.NOISE,
        "percentile": PERCENTILE,
        "judged_s": JUDGED_S,
        "warm_ups_s": {name: workloads()[name].warm_ups_s for name in options.workloads},
    }
    report = Report(QUESTION, settings)
    for name in options.workloads:
        workload = workloads()[name]
        if options.quick:
            workload = replace(workload, seconds=min(workload.seconds, QUICK_S))
        report.rows += rows_of(workload, options.policies, seeds)
    return report


def _live(options: argparse.Namespace) -> Report:
    from benchmarks.goodput.live.bench import Plan, measure  # it takes what the demo takes

    plan = (
        Plan.quick(options.plot)
        if options.quick
        else Plan.full(options.seconds, options.seeds, GRID_PERCENT, options.plot)
    )
    return measure(plan)


if __name__ == "__main__":
    main()
