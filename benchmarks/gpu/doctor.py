"""What `gslice doctor` finds and proves on this machine: attachment, limits, copies."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.cores import ROOT
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each of doctor's checks; a failed one fails the step."""
    asked = subprocess.run(
        [sys.executable, "-m", "gslice", "doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(1.0, clock.left_s),
    )
    try:
        checks = json.loads(asked.stdout)["checks"]
    except json.JSONDecodeError:
        sys.exit(f"gslice doctor gave no answer: {asked.stderr.strip().splitlines()[-1:]}")
    for check in checks:
        report.add(check["name"], status=check["status"], detail=check["detail"])
    report.headline(headline(checks))
    if any(check["status"] == "fail" for check in checks):
        sys.exit(headline(checks))


def headline(checks: list[dict[str, str]]) -> str:
    """How many checks went how; what is not well by its name."""
    names = {
        status: ", ".join(check["name"] for check in checks if check["status"] == status)
        for status in ("warn", "fail")
    }
    well = f"{sum(check['status'] == 'ok' for check in checks)} ok"
    return "; ".join([well, *(f"{status}: {of}" for status, of in names.items() if of)])


if __name__ == "__main__":
    main("doctor", measure)
