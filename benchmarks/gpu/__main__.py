"""`python -m benchmarks.gpu --out DIR [--minutes 12] [--only STEP...] [--list]`

Runs the steps in order of value. A step that fails, or takes longer than its part of the time,
stops nothing; Ctrl-C keeps what is there. DIR gets a JSON file and a log of each step, pictures
where matplotlib is, and summary.json, which keeps what an earlier run says of steps that this one
leaves out. Ends with status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cores import ROOT
from benchmarks.gpu.plots import draw
from benchmarks.gpu.report import GpuReport, StepFile
from benchmarks.gpu.runner import Outcome, run_step
from benchmarks.gpu.steps import STEPS, WHOLE_MINUTES, Step, budget_s, select

_LEAST_S = 5.0  # less is not worth the start of a process


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--minutes", type=float, default=WHOLE_MINUTES, help="for all steps together"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps only")
    parser.add_argument("--list", action="store_true", help="show the steps and their times")
    options = parser.parse_args(arguments)
    try:
        steps = select(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not 0 < options.minutes <= 24 * 60:
        parser.error("--minutes must be above 0, and a day at most")
    if options.list:
        _list(steps, options.minutes * 60)
        return 0
    if options.out is None:
        parser.error("--out DIR says where the results go")
    if problem := lacking():
        print(f"error: {problem}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes = run(steps, options.out, options.minutes * 60)
    summarise(outcomes, options.out, options.minutes)
    for told in draw(options.out):
        print(told)
    if any(outcome.outcome == "interrupted" for outcome in outcomes):
        return 130
    return 0 if all(outcome.outcome == "ok" for outcome in outcomes) else 1


def lacking() -> str:
    """What this machine lacks for any of the steps; empty if nothing."""
    look = "from benchmarks.gpu.driver import Driver; print(Driver().device_count())"
    answer = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True)
    if answer.returncode != 0:
        return f"no GPU: {_last_line(answer.stderr)}"
    if answer.stdout.strip() == "0":
        return "the NVIDIA driver finds no GPU"
    look = "import gslice._native"
    answer = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True)
    if answer.returncode != 0:
        reason = _last_line(answer.stderr)
        return f"{reason}; build it: pip install --no-build-isolation --no-deps -e ."
    return ""


def run(steps: Sequence[Step], folder: Path, seconds: float) -> list[Outcome]:
    """Runs the steps one after the other; none runs once the time is over, or after Ctrl-C."""
    end = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    for index, step in enumerate(steps):
        budget = budget_s(steps, index, end - time.monotonic())
        if outcomes and outcomes[-1].outcome in ("interrupted", "not run"):
            outcomes.append(Outcome(step.name, "not run", 0.0, 0.0, outcomes[-1].headline))
            continue
        if budget < _LEAST_S:
            outcomes.append(Outcome(step.name, "not run", 0.0, 0.0, "no time was left"))
            continue
        print(f"{step.name}: {step.question} (up to {budget:.0f} s)", flush=True)
        outcomes.append(run_step(step.name, step.module, folder, budget))
        last = outcomes[-1]
        print(f"  {last.outcome} after {last.seconds:g} s: {last.headline}", flush=True)
    return outcomes


def summarise(outcomes: Sequence[Outcome], folder: Path, minutes: float) -> None:
    """Writes summary.json and shows it."""
    path = folder / "summary.json"
    rows = {row["name"]: row for row in StepFile(path).content().get("rows", [])}
    rows |= {outcome.name: asdict(outcome) for outcome in outcomes}
    summary = GpuReport(
        " ".join(outcome.name for outcome in outcomes),
        "What did the GPU suite find?",
        path,
        {"minutes": minutes},
    )
    order = [step.name for step in STEPS if step.name in rows]
    for name in [*order, *(name for name in rows if name not in order)]:
        summary.add(**rows[name])
    summary.report.show()


def _last_line(text: str) -> str:
    """What a process said last, without the error's class."""
    return text.strip().rpartition("\n")[2].partition(": ")[2]


def _list(steps: Sequence[Step], seconds: float) -> None:
    whole = sum(step.part for step in steps)
    for step in steps:
        print(f"{step.name:10}{seconds * step.part / whole:5.0f} s  {step.question}")


if __name__ == "__main__":
    sys.exit(main())
