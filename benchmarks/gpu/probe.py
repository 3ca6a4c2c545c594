"""The design's questions to the GPU, each in a process of its own. See `questions`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.cores import ROOT
from benchmarks.gpu.questions import QUESTIONS
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main

QUESTION_S = 40.0


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each question; what it read is under `settings.details`."""
    details: dict[str, Any] = {}
    for name in QUESTIONS:
        answer = ask(name, min(QUESTION_S, clock.left_s))
        details[name] = answer.pop("details", {})
        report.setting(details=details)
        report.add(name, **answer)
    said = [row for row in report.rows if row["holds"] is not None]
    broken = [str(row["name"]) for row in said if row["holds"] is False]
    text = f"{len(said) - len(broken)} of {len(said)} assumptions hold"
    report.headline(text + (f"; not {', '.join(broken)}" if broken else ""))


def ask(name: str, timeout_s: float) -> dict[str, Any]:
    """The answer to one question; one that fails does not hold, and says why."""
    if timeout_s < 1:
        return {"holds": None, "text": "no time was left"}
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.questions", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"holds": False, "text": f"no answer within {timeout_s:.0f} s"}
    if asked.returncode != 0:
        words = [line for line in asked.stderr.splitlines() if line.strip()]
        return {"holds": False, "text": (words or [f"ended with code {asked.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main("probe", measure)
