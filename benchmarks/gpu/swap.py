"""Shares of a GPU that change under load: by a shadow under MPS, in place under green contexts.

The arms of `benchmarks.swap` that need a GPU, with as many resizes as there is time for.
"""

from __future__ import annotations

import time
from dataclasses import replace

import uvloop

from benchmarks import swap
from benchmarks.common import Row
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, Skipped, main

PLAN = swap.Plan(resizes=2, pause_s=0.3, capacity_s=1.0, load_percent=80, seed=0)
_RESIZES_MAX = 250


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each limiter."""
    arms = swap.gpu_arms()
    if not arms:
        raise Skipped("neither MPS nor green contexts are here")
    report.setting(load_percent=PLAN.load_percent, seed=PLAN.seed)
    for done, arm in enumerate(arms):
        begun_s, left_s = time.monotonic(), clock.share_s(len(arms) - done)
        uvloop.run(swap.measure(arm, PLAN))  # what a resize takes here
        each_s = (time.monotonic() - begun_s) / PLAN.resizes
        resizes = max(PLAN.resizes, int(left_s / each_s) - PLAN.resizes)
        row = uvloop.run(swap.measure(arm, replace(PLAN, resizes=min(_RESIZES_MAX, resizes))))
        report.add(row.pop("name"), **row)
        report.headline("; ".join(told(row) for row in report.rows))


def told(row: Row) -> str:
    """A limiter's answer in a line."""
    hole_us, prepare_ms = row.get("hole_us_p99"), row.get("prepare_ms_p50")
    return (
        f"{row['limiter']}: {row['resizes']} resizes ({row['path']}), {row['lost']} lost,"
        f" {row['errors']} errors, hole p99 {hole_us} us, prepared in {prepare_ms} ms"
    )


if __name__ == "__main__":
    main("swap", measure)
