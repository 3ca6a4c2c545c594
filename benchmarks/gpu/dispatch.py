"""What gslice adds to a batch: claim to DONE, minus the same copies and a bare graph replay.

`added_us` is against the same sequence driven by hand from the host, without waiting in between
(`bare_us`). `above_gpu_us` is against the GPU's own time for it, when the host is far ahead
(`gpu_us`), which no server can reach: it holds the launches of the host as well. The bar: 60 us.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.models import MODELS, Model, captured
from benchmarks.gpu.pumped import Capture, Captured, Place, Pumped
from benchmarks.gpu.replay import CopyGraph, Replay
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main
from benchmarks.gpu.turns import Run, added_us, spread_percent, take_turns

BATCHES = (1, 4, 8)
BAR_US = 60.0
COPY = Model("one copy", (1024,), "FP32", 1024)  # nothing but the data path


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each model and batch size."""
    report.setting(bar_us=BAR_US)
    with Gpu() as gpu:

        def copy(place: Place) -> Captured:
            return CopyGraph(gpu, place, place.bucket * COPY.row_bytes)

        _rows(report, gpu, COPY, copy, clock.share_s(2))
        resnet = MODELS["resnet50"]
        _rows(report, gpu, resnet, captured(resnet, resnet.make()), clock.left_s)
    report.setting(bar_met=max(row["added_us"] for row in report.rows) <= BAR_US)


def _rows(report: GpuReport, gpu: Gpu, model: Model, capture: Capture, seconds: float) -> None:
    with Pumped(model.row, model.dtype, model.outputs, BATCHES, capture) as pumped:
        pumped.run(pumped.requests(np.zeros((max(BATCHES), *model.row), np.float32)))
        before = pumped.counters()
        for rows in BATCHES:
            with Replay(gpu, rows, model.row_bytes, 4 * model.outputs, capture) as replay:
                row = _one(model, rows, pumped, replay, seconds / len(BATCHES))
            report.add(f"{model.name}, batch {rows}", **row)
            added = [row["added_us"] for row in report.rows]
            report.headline(
                f"added to a bare replay: {min(added):g} to {max(added):g} us (bar {BAR_US:g} us)"
            )
        report.setting(**{f"counters {model.name}": pumped.counters(since=before)})


def _one(model: Model, rows: int, pumped: Pumped, replay: Replay, seconds: float) -> dict[str, Any]:
    tensors = np.random.default_rng(1).random((rows, *model.row), np.float32)
    requests = pumped.requests(tensors)
    replay.fill(tensors)
    replay.run()
    pumped.run(requests)
    if not np.array_equal(pumped.outputs(), replay.answers()):
        raise RuntimeError(f"{model.name}: gslice and the bare replay give different answers")
    arms: dict[str, Run] = {
        "gslice": lambda: pumped.run(requests).dispatch_us,
        "bare": replay.run,
    }
    turns = take_turns(arms, seconds * 0.8)
    gpu_us = replay.device_us()
    middle = {arm: statistics.median(times) for arm, times in turns.items()}
    return {
        "gslice_us": round(middle["gslice"], 1),
        "bare_us": round(middle["bare"], 1),
        "gpu_us": round(gpu_us, 1),
        "added_us": added_us(turns, "gslice", "bare"),
        "above_gpu_us": round(middle["gslice"] - gpu_us, 1),
        "gslice_us_spread_percent": spread_percent(turns["gslice"]),
        "turns": len(turns["gslice"]),
    }


if __name__ == "__main__":
    main("dispatch", measure)
