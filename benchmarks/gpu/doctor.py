"""What `gslice doctor` proves on this machine, beside the suite's own timed kernel."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.common import ROOT
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, Skipped, main

SHARES_PERCENT = (50, 25)
TOLERANCE = 0.25  # of the ratio of times, which other work on the GPU may spoil


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each of doctor's checks, then one for the timed kernel."""
    asked = subprocess.run(
        [sys.executable, "-m", "gslice", "doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(1.0, clock.left_s * 0.8),
    )
    try:
        found = json.loads(asked.stdout)
    except json.JSONDecodeError:
        words = [line for line in asked.stderr.splitlines() if line.strip()]
        report.add("gslice doctor", status="fail", detail=(words or ["it said nothing"])[-1])
    else:
        for check in found["checks"]:
            report.add(check["name"], status=check["status"], detail=check["detail"])
    status, detail = timed_kernel()
    report.add("timed kernel of the suite", status=status, detail=detail)
    failed = [str(row["name"]) for row in report.rows if row["status"] == "fail"]
    report.headline(f"failed: {', '.join(failed)}" if failed else detail)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def timed_kernel() -> tuple[str, str]:
    """Whether fixed work takes as much longer at the smaller share as it has fewer SMs."""
    whole = Client("limit", {}).finish()
    if "failed" in whole:
        return "fail", str(whole["failed"])
    try:
        with Mps() as mps:
            found = [
                mps.client("limit", percent, whole=whole["sms"]).finish()
                for percent in SHARES_PERCENT
            ]
    except Skipped as reason:
        return "warn", str(reason)
    if failure := next((row["failed"] for row in found if "failed" in row), None):
        return "fail", str(failure)
    larger, smaller = found
    expected = larger["sms"] / smaller["sms"]
    seen = smaller["burn_us"] / larger["burn_us"]
    detail = (
        f"{SHARES_PERCENT[0]} %: {larger['sms']} SMs, {larger['burn_us']:.0f} us;"
        f" {SHARES_PERCENT[1]} %: {smaller['sms']} SMs, {smaller['burn_us']:.0f} us;"
        f" {seen:.2f} times as long, {expected:.2f} expected"
    )
    return ("ok" if abs(seen / expected - 1) <= TOLERANCE else "fail"), detail


if __name__ == "__main__":
    main("doctor", measure)
