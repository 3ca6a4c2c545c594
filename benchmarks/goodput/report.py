"""Rows of the report: what a run's counts say about the promise that clients were given."""

from __future__ import annotations

import numpy as np

from benchmarks.common import Row, medians
from benchmarks.goodput.simulate import LOOK_US, PREPARE_US, Run, goodput_rps, measured
from benchmarks.goodput.state import ANSWERED, ARRIVED, EXPIRED, LATE, SHED
from benchmarks.goodput.workloads import Workload

PERCENTILE = 99.0
JUDGED_S = 10.0
"""A function's SLO is judged in windows of this."""
MEMORY_S = 100.0
"""How long ago something like a burst must have been seen for nobody to be surprised."""
REACTION_S = 1.0 + PREPARE_US / 1e6
"""Half a second until a burst is seen, half a second until somebody looks, and the preparation."""
SPREAD_OF = ("goodput_rps", "violation_pct")
_CHANCE = 2.5  # deviations of a count, by which it passes others for no reason


def figures(workload: Workload, run: Run) -> dict[str, float]:
    """One run's figures, outside warm-ups unless they say otherwise.

    Args:
        workload: What was served.
        run: How.
    """
    kept = measured(workload, len(run.counts))
    counts = run.counts[kept].sum(axis=(0, 1))
    warming = run.counts[~kept].sum(axis=(0, 1))
    seconds = kept.sum() * LOOK_US / 1e6
    return {
        "requests": float(counts[ARRIVED]),
        "goodput_rps": goodput_rps(workload, run),
        "violation_pct": _violations(counts),
        "unforeseen_violation_pct": _unforeseen(run.counts, kept),
        "late_pct": 100.0 * float(counts[LATE]) / max(1.0, float(counts[ANSWERED])),
        "turned_away_pct": _part(counts[SHED] + counts[EXPIRED], counts[ARRIVED]),
        "slo_kept_pct": _kept(run.counts[kept]),
        "warm_up_violation_pct": _violations(warming),
        "util_pct": 100.0 * float(run.busy_us[kept].sum()) / (seconds * 1e6 * workload.devices),
        "resizes": float(run.resizes),
        "control_core_pct": 100.0 * run.control_s / run.seconds,
    }


def row(
    workload: Workload, policy: str, runs: list[dict[str, float]], mode: str = "simulation"
) -> Row:
    """The medians of a policy's runs.

    Args:
        workload: What was served.
        policy: By whom.
        runs: `figures` of each.
        mode: Whether a machine was measured, or simulated.
    """
    return {
        "name": f"{workload.name} {policy}",
        "mode": mode,
        "workload": workload.name,
        "kind": workload.kind,
        "policy": policy,
        **medians(runs, spread_of=SPREAD_OF),
    }


def _part(some: float, of: float) -> float:
    return 100.0 * float(some) / max(1.0, float(of))


def _violations(counts: np.ndarray) -> float:
    """Requests that were not answered within their SLO, in percent of all that came."""
    return _part(counts[ARRIVED] - (counts[ANSWERED] - counts[LATE]), counts[ARRIVED])


def _unforeseen(counts: np.ndarray, kept: np.ndarray) -> float:
    """The part of the violations, in percent of all requests, that only a prophet prevents.

    They come within `REACTION_S` of a half second that brings more to the function than any did in
    the `MEMORY_S` before.
    """
    arrived, memory = counts[..., ARRIVED], round(MEMORY_S * 1e6 / LOOK_US)
    halves = arrived[1:] + arrived[:-1]
    surprised = np.zeros(arrived.shape, bool)
    for i in range(2, len(halves)):
        most = halves[max(0, i - memory) : i - 1].max(axis=0)
        begins = halves[i] > most + _CHANCE * np.sqrt(most)
        surprised[i : i + 2 + round(REACTION_S * 1e6 / LOOK_US)] |= begins
    bad = arrived - (counts[..., ANSWERED] - counts[..., LATE])
    return _part(bad[kept][surprised[kept]].sum(), arrived[kept].sum())


def _kept(counts: np.ndarray) -> float:
    """Of all windows of all functions, in how many `PERCENTILE` of the requests were in time."""
    size = round(JUDGED_S * 1e6 / LOOK_US)
    whole = counts[: len(counts) // size * size]
    judged = whole.reshape(-1, size, *whole.shape[1:]).sum(axis=1)
    asked = judged[..., ARRIVED]
    good = judged[..., ANSWERED] - judged[..., LATE]
    held = (good * 100.0 >= asked * PERCENTILE)[asked > 0]
    return 100.0 * float(held.mean()) if held.size else 100.0
