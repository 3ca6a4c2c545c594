"""A latency model that learns from live batches."""

from __future__ import annotations

import pytest

from gslice.control.latency import LatencyModel, Measurement
from gslice.control.learning import Learner

ONE_SHARE = LatencyModel.fit([Measurement(1, 50.0, 10_000.0, 11_000.0, 4)])
SEVERAL = LatencyModel.fit(
    [Measurement(1, share, 5e5 / share, 6e5 / share, 50) for share in (25.0, 50.0)]
)


def see(learner: Learner, share_percent: float, mean_us: float, intervals: int = 20) -> None:
    for _ in range(intervals):
        learner.observe({1: 60}, mean_us, share_percent)


def median_us(learner: Learner, share_percent: float) -> float:
    return learner.model().median_us(1, share_percent)


def test_of_one_share_more_is_taken_to_be_faster() -> None:
    learner = Learner(ONE_SHARE)
    assert median_us(learner, 50.0) == pytest.approx(10_000, rel=0.01)
    assert median_us(learner, 100.0) == pytest.approx(5_000, rel=0.01)


def test_a_share_that_brings_nothing_is_learned() -> None:
    learner = Learner(ONE_SHARE)
    see(learner, 75.0, 10_000.0)
    assert median_us(learner, 75.0) == pytest.approx(10_000, rel=0.05)
    assert median_us(learner, 100.0) == pytest.approx(10_000, rel=0.05)
    assert median_us(learner, 50.0) == pytest.approx(10_000, rel=0.05)


def test_a_share_that_brings_something_is_learned() -> None:
    learner = Learner(ONE_SHARE)
    see(learner, 70.0, 8_000.0)
    assert median_us(learner, 70.0) == pytest.approx(8_000, rel=0.06)
    assert 6_000 < median_us(learner, 100.0) < 8_000


def test_at_a_measured_share_all_shares_are_corrected() -> None:
    learner = Learner(SEVERAL)
    see(learner, 25.0, 40_000.0)
    assert median_us(learner, 25.0) == pytest.approx(40_000, rel=0.1)
    assert median_us(learner, 50.0) == pytest.approx(20_000, rel=0.1)


def test_the_factor_of_the_neighbours_stays_when_a_share_is_learned() -> None:
    learner = Learner(SEVERAL)
    see(learner, 25.0, 40_000.0)
    see(learner, 100.0, 10_000.0, intervals=1)  # twice what it takes alone, as elsewhere
    assert median_us(learner, 50.0) == pytest.approx(20_000, rel=0.1)
    assert median_us(learner, 100.0) == pytest.approx(10_000, rel=0.1)


def test_the_model_is_the_same_object_until_it_is_off() -> None:
    learner = Learner(SEVERAL)
    first = learner.model()
    see(learner, 25.0, 20_500.0)
    assert learner.model() is first
    see(learner, 25.0, 30_000.0)
    assert learner.model() is not first


def test_few_batches_at_a_new_share_say_nothing_yet() -> None:
    learner = Learner(ONE_SHARE)
    learner.observe({1: 20}, 10_000.0, 80.0)
    assert median_us(learner, 100.0) == pytest.approx(5_000, rel=0.01)
    learner.observe({1: 40}, 10_000.0, 80.0)
    assert median_us(learner, 100.0) > 9_000
