"""What batches really take in the simulation. Controllers never see this, only a noisy profile.

A table gives the time of a batch by rows and by share; a coupling gives by how much a busy
neighbour slows a model down, for each percent of the device that the neighbour holds. Couplings of
several neighbours add up, as iGniter found for L2 utilisation.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput import published as p

Floats = NDArray[np.float64]

ROWS_MAX = 32
STEP_PERCENT = 0.5
"""Shares are looked up in steps of this."""
GPUS = ("V100", "A100")


def index(share_percent: float) -> int:
    """Where a share stands in a table."""
    return min(max(1, round(share_percent / STEP_PERCENT)), round(100 / STEP_PERCENT))


@cache
def table_us(gpu: str, model: str) -> Floats:
    """Time of a batch alone on the device, by rows and by `index` of the share.

    Returns:
        A read-only array of [ROWS_MAX + 1, 201]; nothing is at row 0 or share 0.
    """
    rows = np.arange(ROWS_MAX + 1, dtype=float)[:, None]
    shares = np.maximum(np.arange(round(100 / STEP_PERCENT) + 1) * STEP_PERCENT, STEP_PERCENT)
    table: Floats = 1e3 * (_v100_ms if gpu == "V100" else _a100_ms)(model, rows, shares[None, :])
    table.flags.writeable = False
    return table


def coupling(gpu: str, slowed: str, by: str) -> float:
    """The part by which a model is slower, for each percent of the device that `by` keeps busy."""
    if gpu == "V100":
        one, other = p.V100[slowed], p.V100[by]
        return (one.pair_ratio - 1) * other.l2_percent / one.l2_percent / 50.0
    one_name, other_name = p.A100_ALIKE.get(slowed, slowed), p.A100_ALIKE.get(by, by)
    ratios = [p.A100_CO_RUN[one_name]] if one_name in p.A100_CO_RUN else p.A100_CO_RUN.values()
    return float(np.mean([ratio[other_name] - 1 for ratio in ratios])) / p.A100_CO_RUN_PERCENT


# ---- V100: a fitted form ---------------------------------------------------------------------


def _v100_ms(model: str, rows: Floats, shares: Floats) -> Floats:
    form = v100_form(model)
    compute = (form[0] * rows**2 + form[1] * rows + form[2]) / (shares + form[4]) + form[3]
    return compute + rows * p.V100[model].row_bytes / p.V100_BYTES_PER_US / 1e3


@cache
def v100_form(model: str) -> tuple[float, float, float, float, float]:
    """k1, k2, k3, k5, k4 of (k1 b^2 + k2 b + k3) / (share + k4) + k5, in ms: iGniter's form.

    Least squares of relative errors, nothing below zero; k4 by search, as all else is linear.
    """
    b, s = (a.ravel() for a in np.meshgrid(p.V100_ROWS, p.V100_SHARES_PERCENT, indexing="ij"))
    ms = np.array(p.V100[model].batch_ms).ravel()
    best: tuple[float, tuple[float, float, float, float, float]] | None = None
    for k4 in np.linspace(0.0, 10.0, 101):
        x = np.stack([b**2 / (s + k4), b / (s + k4), 1 / (s + k4), np.ones_like(s)], axis=1)
        k, error = _nonnegative(x / ms[:, None], np.ones_like(ms))
        if best is None or error < best[0]:
            best = error, (k[0], k[1], k[2], k[3], float(k4))
    assert best is not None
    return best[1]


def _nonnegative(x: Floats, y: Floats) -> tuple[list[float], float]:
    """Least squares with no coefficient below zero, by trying all sets of those that are above."""
    best: tuple[list[float], float] | None = None
    for chosen in range(1, 2 ** x.shape[1]):
        used = [i for i in range(x.shape[1]) if chosen >> i & 1]
        k = np.linalg.lstsq(x[:, used], y, rcond=None)[0]
        error = float(np.sum((x[:, used] @ k - y) ** 2))
        if k.min() >= 0 and (best is None or error < best[1]):
            whole = dict(zip(used, map(float, k), strict=True))
            best = [whole.get(i, 0.0) for i in range(x.shape[1])], error
    assert best is not None
    return best


# ---- A100: interpolated points ---------------------------------------------------------------


def _a100_ms(model: str, rows: Floats, shares: Floats) -> Floats:
    """Through every point: straight in rows, and straight in log(share) and log(time) between.

    Below 20 % nothing was measured: the slope between 20 and 40 % goes on, and no batch is faster
    than the SMs that its rows need at best (those of 32 rows at 20 %).
    """
    points = np.array(p.A100_MS[model])
    b = np.maximum(rows.ravel(), 1.0)
    by_rows = np.stack([np.interp(b, p.A100_ROWS, column) for column in points.T], axis=1)
    logs, at = np.log(np.array(p.A100_SHARES_PERCENT)), np.log(shares.ravel())
    times = np.exp(np.array([np.interp(at, logs, line) for line in np.log(by_rows)]))
    slope = np.maximum(0.0, np.log(by_rows[:, 0] / by_rows[:, 1]) / (logs[1] - logs[0]))
    low = at < logs[0]
    below = np.maximum(0.0, logs[0] - at)
    longer = by_rows[:, :1] * np.exp(slope[:, None] * below[None, :])
    at_best = b[:, None] * points[-1, 0] / p.A100_ROWS[-1] * np.exp(below)[None, :]
    whole: Floats = np.where(low[None, :], np.maximum(longer, at_best), times)
    return whole
