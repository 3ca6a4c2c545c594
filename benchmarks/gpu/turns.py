"""Arms that take turns, A B C A B C: what drifts meanwhile touches all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Turns = dict[str, list[float]]
Run = Callable[[], float | None]
"""One batch; it gives its own latency in microseconds, or leaves the timing to the caller."""

TURN_S = 0.12
_LEAST_TURNS = 2


def take_turns(
    arms: Mapping[str, Run], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Turns:
    """Each arm's median latency in microseconds, turn by turn.

    Args:
        arms: By name.
        seconds: For all together; each gets two turns even so.
        clock: Seconds, ascending.
    """
    turns: Turns = {name: [] for name in arms}
    end = clock() + seconds
    rounds = 0
    while rounds < _LEAST_TURNS or clock() < end:
        for name, run in arms.items():
            turns[name].append(_turn(run, clock))
        rounds += 1
    return turns


def below_percent(turns: Turns, arm: str, base: str) -> float:
    """How far an arm is below another: the median over turns that lie side by side."""
    pairs = zip(turns[arm], turns[base], strict=True)
    return round(100 * (1 - statistics.median(own / other for own, other in pairs)), 1)


def added_us(turns: Turns, arm: str, base: str) -> float:
    """How far an arm is above another: the median over turns that lie side by side."""
    pairs = zip(turns[arm], turns[base], strict=True)
    return round(statistics.median(own - other for own, other in pairs), 1)


def spread_percent(times: list[float]) -> float:
    """(max - min) / median."""
    return round(100 * (max(times) - min(times)) / statistics.median(times), 1)


def _turn(run: Run, clock: Callable[[], float]) -> float:
    times: list[float] = []
    end = clock() + TURN_S
    while (begun := clock()) < end or not times:
        own_us = run()
        times.append((clock() - begun) * 1e6 if own_us is None else own_us)
    return statistics.median(times)
