"""All runs, in turns, and their rows."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.common import Report, Row
from benchmarks.goodput.live.calibrate import calibrate
from benchmarks.goodput.live.course import MODELS, ROWS_MAX, SLO_BATCHES, Course
from benchmarks.goodput.live.drive import drive
from benchmarks.goodput.live.plot import draw
from benchmarks.goodput.live.record import Recording
from benchmarks.goodput.live.site import Site
from benchmarks.goodput.live.ways import EQUAL, SLO, UNCONTROLLED, Way, grid
from benchmarks.goodput.report import JUDGED_S, PERCENTILE, figures, row
from benchmarks.goodput.simulate import goodput_rps
from benchmarks.goodput.workloads import Workload
from gslice.cli.profile_plot import check_plot

QUESTION = "Which way of dividing a device answers most requests in time? (live, CPU device)"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        course: Of each run.
        repeats: Rounds; each way is run once in each.
        ways: How the device is divided.
        plot: Where to draw `slo` beside the best fixed division; None: nowhere.
    """

    course: Course
    repeats: int
    ways: Sequence[Way]
    plot: Path | None = None

    @classmethod
    def full(cls, seconds: float, repeats: int, grid_step: float, plot: Path | None) -> Plan:
        """For figures."""
        ways = [SLO, *grid(20.0, grid_step), EQUAL, UNCONTROLLED]
        return cls(Course(seconds), repeats, ways, plot)

    @classmethod
    def quick(cls, plot: Path | None) -> Plan:
        """For tests."""
        course = Course(2.0, 0.25, 0.25, shares_percent=(50.0, 100.0))
        return cls(course, 1, [SLO, *grid(40.0, 20.0), EQUAL, UNCONTROLLED], plot)


@dataclass
class _Runs:
    """What was recorded so far, by the way's name: one of each round."""

    workload: Workload
    of: dict[str, list[Recording]] = field(default_factory=dict)

    def goodput_rps(self, way: str) -> list[float]:
        return [goodput_rps(self.workload, each.run()) for each in self.of[way]]


def measure(plan: Plan) -> Report:
    """Measures everything.

    Args:
        plan: How much.
    """
    if plan.plot is not None:
        check_plot(plan.plot)
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as folder:
        site = Site.here(Path(folder))
        tell = _Progress(1 + plan.repeats * len(plan.ways))
        tell(site.note)
        runs = uvloop.run(_take_turns(site, plan, tell))
    fixed = [way.name for way in plan.ways if way.fixed]
    best = max(fixed, key=lambda name: statistics.median(runs.goodput_rps(name)))
    report = Report(
        QUESTION, _settings(plan, site, runs.workload, best)
    )  # takes the commit before the picture changes a file
    if plan.plot is not None:
        draw(runs.of[SLO.name], runs.of[best], best, plan.plot)
    report.rows = _rows(plan, runs, best)
    return report


async def _take_turns(site: Site, plan: Plan, tell: _Progress) -> _Runs:
    functions = await calibrate(site, plan.course.shares_percent, tell)
    tell.done()
    runs = _Runs(plan.course.workload(functions))
    for seed in range(plan.repeats):
        for way in plan.ways:
            made = await drive(site, way, runs.workload, plan.course.step_s, functions, seed)
            runs.of.setdefault(way.name, []).append(made)
            tell.done()
            got = figures(runs.workload, made.run())
            tell(
                f"round {seed + 1}, {way.name}: {got['goodput_rps']:.1f} answers in time a second,"
                f" {got['violation_pct']:.1f} % violations, {got['resizes']:.0f} share changes"
            )
    return runs


def _rows(plan: Plan, runs: _Runs, best: str) -> list[Row]:
    """A row for each way, and one more for the best of the fixed ones."""
    names = {SLO.name: SLO.name, "static": best, **{way.name: way.name for way in plan.ways}}
    static = runs.goodput_rps(best)
    return [_row(runs, policy, name, static) for policy, name in names.items()]


def _row(runs: _Runs, policy: str, name: str, static_rps: Sequence[float]) -> Row:
    made = runs.of[name]
    each = [
        figures(runs.workload, recording.run()) | {"vs_static": goodput / max(static, 1e-9)}
        for recording, goodput, static in zip(made, runs.goodput_rps(name), static_rps, strict=True)
    ]
    failures = sum((recording.failures() for recording in made), Counter[str]())
    return {
        **row(runs.workload, policy, each, mode="live"),
        "failed": failures.total(),
        **({"seen": "; ".join(sorted(failures)[:3])} if failures else {}),
    }


def _settings(plan: Plan, site: Site, workload: Workload, best: str) -> Row:
    return {
        "mode": "live",
        "repeats": plan.repeats,
        "seconds": plan.course.seconds,
        "step_s": plan.course.step_s,
        "warm_ups_s": workload.warm_ups_s,
        "percentile": PERCENTILE,
        "judged_s": JUDGED_S,
        "limiter": site.limiter,
        "device_cpus": site.cpus,
        "cores": asdict(site.cores),
        "note": site.note,
        "slo_batches": SLO_BATCHES,
        "rows_max": ROWS_MAX,
        "loads_percent": {model.name: model.loads_percent for model in MODELS},
        "slo_ms": {asked.name: asked.slo_ms for asked in workload.functions},
        "rates_per_s": {
            asked.name: [
                round(asked.rate_per_s * part / model.loads_percent[0], 2)
                for part in model.loads_percent
            ]
            for asked, model in zip(workload.functions, MODELS, strict=True)
        },
        "static": best,
        "divisions": f"{' : '.join(model.name for model in MODELS)}, in percent",
    }


class _Progress:
    """Lines on standard error: what was found, and how long the rest will take."""

    def __init__(self, steps: int) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._steps, self._done = steps, 0
        self._begun_s = time.monotonic()

    def done(self) -> None:
        """A step is."""
        self._done += 1

    def __call__(self, text: str) -> None:
        left = ""
        if 0 < self._done < self._steps:
            gone_s = time.monotonic() - self._begun_s
            left = f" ({gone_s / self._done * (self._steps - self._done) / 60:.0f} min left)"
        self._console.print(f"{text}{left}", markup=False)
