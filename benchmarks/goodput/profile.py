"""The profile that controllers get: a few points, measured with noise."""

from __future__ import annotations

import numpy as np

from benchmarks.goodput.scene import Function
from benchmarks.goodput.tables import ROWS_MAX, index, table_us
from benchmarks.goodput.workloads import Asked, Workload
from gslice.control.latency import Measurement

ROWS = (1, 4, 16, 32)
SHARES_PERCENT = (10.0, 25.0, 50.0, 100.0)
BATCHES = 50


def functions(workload: Workload, noise: float, rng: np.random.Generator) -> list[Function]:
    """What policies know of a workload's functions.

    Args:
        workload: The workload.
        noise: Standard deviation of the logarithm of a batch's time.
        rng: Where randomness comes from.
    """
    return [
        Function(
            name=asked.name,
            slo_us=asked.slo_ms * 1e3,
            rows_max=ROWS_MAX,
            rate_hint_per_s=asked.rate_per_s * float(asked.curve(np.zeros(1))[0]),
            profile=[
                _measured(workload, asked, rows, share, noise, rng)
                for rows in ROWS
                for share in SHARES_PERCENT
            ],
        )
        for asked in workload.functions
    ]


def _measured(
    workload: Workload,
    asked: Asked,
    rows: int,
    share: float,
    noise: float,
    rng: np.random.Generator,
) -> Measurement:
    """One point: the device to itself, `BATCHES` batches."""
    true_us = table_us(workload.gpu, asked.model)[rows, index(share)]
    seen_us = true_us * np.exp(noise * rng.standard_normal(BATCHES))
    return Measurement(
        bucket=rows,
        share_percent=share,
        median_us=float(np.median(seen_us)),
        p99_us=float(np.quantile(seen_us, 0.99)),
        batches=BATCHES,
    )
