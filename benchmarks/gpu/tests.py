"""`pytest -m gpu` of the checkout, a row for each test as it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

from benchmarks.cores import ROOT
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main

COMMAND = (
    *(sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-rs", "--color=no"),
    *("-p", "pytest_timeout"),
)
# An image full of other packages has plugins whose warnings would be errors here.
_ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_ENDED = re.compile(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")
_SKIPPED = re.compile(r"SKIPPED \[\d+\] (.+)")


def measure(report: GpuReport, _clock: Clock) -> None:
    """Runs them all; the runner ends those that take too long."""
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pytest:
        try:
            assert pytest.stdout is not None
            follow(pytest.stdout, report)
        finally:
            pytest.terminate()
    if pytest.returncode != 0:
        sys.exit(f"pytest -m gpu ended with code {pytest.returncode}: {tell(report)}")
    if not any(row["outcome"] == "passed" for row in report.rows):
        sys.exit(f"pytest -m gpu ran nothing: {tell(report)}")


def follow(lines: Iterable[str], report: GpuReport) -> None:
    """Makes rows of pytest's output; the output itself goes on to the log."""
    skips = []
    for line in lines:
        print(line, end="", flush=True)
        if match := _ENDED.match(line):
            report.add(match[1], outcome=match[2].lower())
            report.headline(tell(report))
        elif match := _SKIPPED.match(line):
            skips.append(match[1])
            report.setting(skips=skips)


def tell(report: GpuReport) -> str:
    """How many ended how."""
    counts = Counter(str(row["outcome"]) for row in report.rows)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no test"


if __name__ == "__main__":
    main("tests", measure)
