from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.control.arrivals import SECOND_NS, ArrivalEstimator, Arrivals

A_SECOND = 4
"""Readings."""


def follow(
    rates_per_s: Sequence[float], seed: int = 1, group: int = 1
) -> list[tuple[int, Arrivals | None]]:
    """What is estimated after each reading, for Poisson arrivals of groups."""
    rng, estimator = np.random.default_rng(seed), ArrivalEstimator()
    estimator.observe(0, 0)
    arrived, seen = 0, []
    for i, rate in enumerate(rates_per_s, 1):
        arrived += int(rng.poisson(rate / A_SECOND / group)) * group
        now_ns = i * SECOND_NS // A_SECOND
        estimator.observe(now_ns, arrived)
        seen.append((now_ns, estimator.estimate(now_ns)))
    return seen


def rates(seen: list[tuple[int, Arrivals | None]]) -> list[float]:
    return [arrivals.rate_per_s for _, arrivals in seen if arrivals is not None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("before", "after"), [(100, 200), (200, 100), (100, 300), (50, 100), (0, 100), (1000, 0)]
)
def test_a_step_is_followed_within_three_seconds(before: float, after: float, seed: int) -> None:
    seen = rates(follow([before] * 40 * A_SECOND + [after] * 3 * A_SECOND, seed))
    chance = (after * 3) ** 0.5 / 3  # one standard deviation of what three seconds can tell
    assert abs(seen[-1] - after) <= max(0.05 * after, 3 * chance)


@pytest.mark.parametrize("rate", [20, 100, 1000])
def test_a_steady_load_seldom_changes(rate: float) -> None:
    minutes = 20
    seen = rates(follow([rate] * minutes * 60 * A_SECOND))[30 * A_SECOND :]
    changes = sum(abs(b - a) > 0.1 * a for a, b in pairwise(seen))
    assert changes <= minutes / 5  # by more than a tenth: at most every five minutes
    assert max(abs(value / rate - 1) for value in seen) < 0.25


def test_a_steady_load_is_estimated_well() -> None:
    seen = rates(follow([200] * 60 * A_SECOND))
    assert seen[-1] == pytest.approx(200, rel=0.06)


@pytest.mark.parametrize(("group", "least", "most"), [(1, 1.0, 1.6), (8, 4.5, 11.0)])
def test_burstiness_is_the_dispersion_of_counts(group: int, least: float, most: float) -> None:
    _, arrivals = follow([200] * 60 * A_SECOND, group=group)[-1]
    assert arrivals is not None
    assert least <= arrivals.burstiness <= most


def test_a_step_is_no_burst() -> None:
    _, arrivals = follow([100] * 40 * A_SECOND + [400] * 5 * A_SECOND)[-1]
    assert arrivals is not None
    assert arrivals.burstiness < 2


def test_load_that_goes_to_and_fro_is_uneven_and_not_chased() -> None:
    seen = follow(([300] * 8 + [20] * 8) * 20)[80 * A_SECOND // 2 :]
    assert max(rates(seen)) < 1.3 * min(rates(seen))
    assert all(a is not None and a.burstiness > 10 for _, a in seen)


def test_a_ramp_is_followed_with_little_delay() -> None:
    ramp = [100 + 10 * second for second in range(40) for _ in range(A_SECOND)]
    assert rates(follow([100] * 120 + ramp))[-1] > 0.85 * ramp[-1]


def test_too_little_says_nothing() -> None:
    estimator = ArrivalEstimator()
    assert estimator.estimate(0) is None
    estimator.observe(0, 5)
    estimator.observe(SECOND_NS // 2, 50)
    assert estimator.estimate(SECOND_NS // 2) is None
    estimator.observe(SECOND_NS, 105)
    assert estimator.estimate(SECOND_NS) == Arrivals(100.0, 1.0, 100.0)
    assert estimator.estimate(40 * SECOND_NS) is None


def test_a_counter_that_begins_anew_is_no_change_of_load() -> None:
    estimator, arrived = ArrivalEstimator(), 0
    for i in range(1, 80):
        arrived = arrived + 25 if i != 40 else 3
        estimator.observe(i * SECOND_NS // A_SECOND, arrived)
    assert estimator.estimate(20 * SECOND_NS) == Arrivals(
        pytest.approx(100), 1.0, pytest.approx(100)
    )


@given(st.lists(st.tuples(st.integers(0, 3 * SECOND_NS), st.integers(0, 10**6)), max_size=80))
def test_any_readings_give_sane_estimates(readings: list[tuple[int, int]]) -> None:
    estimator, now_ns = ArrivalEstimator(), 0
    for gap_ns, arrived in readings:
        now_ns += gap_ns
        estimator.observe(now_ns, arrived)
        arrivals = estimator.estimate(now_ns)
        assert arrivals is None or (arrivals.rate_per_s >= 0 and arrivals.burstiness >= 1)


def peaks(seen: list[tuple[int, Arrivals | None]]) -> list[float]:
    return [arrivals.peak_per_s for _, arrivals in seen if arrivals is not None]


@pytest.mark.parametrize("rate", [20, 100, 1000])
def test_chance_is_no_peak(rate: float) -> None:
    steady = peaks(follow([rate] * 120 * A_SECOND))[30 * A_SECOND :]
    assert np.median(steady) < 1.15 * rate
    assert max(steady) < 1.15 * rate + 12 * rate**0.5


def test_bursts_that_come_again_are_remembered_as_the_peak() -> None:
    calm, burst = [300.0] * 9 * A_SECOND, [1200.0] * A_SECOND
    found = peaks(follow((calm + burst) * 6))[-20 * A_SECOND :]
    assert all(900 < peak < 1400 for peak in found)


def test_a_burst_that_came_once_may_come_again() -> None:
    calm = [100.0] * 20 * A_SECOND
    found = follow(calm + [1000.0] * 2 * A_SECOND + 5 * calm)
    assert found[-1][1] is not None
    assert found[-1][1].rate_per_s < 120
    assert all(800 < peak < 1200 for peak in peaks(found)[22 * A_SECOND : 120 * A_SECOND])
    assert peaks(found + follow(calm))[-1] < 200
