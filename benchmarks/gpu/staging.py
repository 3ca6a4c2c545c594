"""Up to which size is a batch faster gathered on the host and copied once than a copy a slot?

The same batches go through two instances, one that stages everything and one that never does; the
graph is one copy on the GPU. `staged_below_percent` is how far claim to DONE lies below the other.
"""

from __future__ import annotations

import statistics

import numpy as np

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.models import Model
from benchmarks.gpu.pumped import Captured, Place, Pumped
from benchmarks.gpu.replay import CopyGraph
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main
from benchmarks.gpu.turns import Run, below_percent, take_turns

ROW_BYTES = (256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10)
BATCHES = (2, 8, 16)
ALWAYS_BYTES = 1 << 30
WORTH_PERCENT = 2.0  # less is noise


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each size of a row and batch size."""
    points: list[tuple[int, float]] = []
    left = len(ROW_BYTES) * len(BATCHES)
    with Gpu() as gpu:
        for row_bytes in ROW_BYTES:
            model = Model("one copy", (row_bytes // 4,), "FP32", row_bytes // 4)

            def copy(place: Place, of: Model = model) -> Captured:
                return CopyGraph(gpu, place, place.bucket * of.row_bytes)

            function = (model.row, model.dtype, model.outputs, BATCHES, copy)
            with (
                Pumped(*function, staging_max_bytes=ALWAYS_BYTES) as staged,
                Pumped(*function, staging_max_bytes=0) as direct,
            ):
                for rows in BATCHES:
                    tensors = np.zeros((rows, *model.row), np.float32)
                    requests = staged.requests(tensors)
                    arms: dict[str, Run] = {
                        "staged": lambda of=requests: staged.run(of).dispatch_us,  # type: ignore[misc]
                        "direct": lambda of=requests: direct.run(of).dispatch_us,  # type: ignore[misc]
                    }
                    turns = take_turns(arms, clock.share_s(left))
                    left -= 1
                    gain = below_percent(turns, "staged", "direct")
                    points.append((rows * row_bytes, gain))
                    report.add(
                        f"{rows} x {row_bytes} B",
                        batch_bytes=rows * row_bytes,
                        staged_us=round(statistics.median(turns["staged"]), 1),
                        direct_us=round(statistics.median(turns["direct"]), 1),
                        staged_below_percent=gain,
                    )
                    report.headline(headline(points))
    report.setting(best_staging_max_bytes=best(points))


def best(points: list[tuple[int, float]]) -> int:
    """The largest batch up to which staging never loses; 0: it never wins.

    Args:
        points: Bytes of a batch, and how far staging lies below, in percent.
    """
    found = 0
    for size in sorted({size for size, _ in points}):
        gains = [gain for at, gain in points if at == size]
        if statistics.median(gains) < WORTH_PERCENT:
            break
        found = size
    return found


def headline(points: list[tuple[int, float]]) -> str:
    """The answer in a line."""
    found = best(points)
    return f"staging wins up to {found} bytes a batch" if found else "staging never wins"


if __name__ == "__main__":
    main("staging", measure)
