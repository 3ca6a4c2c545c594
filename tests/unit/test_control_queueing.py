from __future__ import annotations

from itertools import pairwise, product
from math import inf
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.control.latency import LatencyModel, Measurement
from gslice.control.queueing import capacity_per_s, predicted_p99_us
from gslice.control.waiting import Load, Prediction
from tests.unit.queue_simulation import BUCKETS, SHAPES_US, SHARE, Case, simulated_us

SHARES = tuple(range(5, 105, 5))
MODELS = {shape: Case(shape, 0.1, 1, 1, 1, 0.5).model() for shape in SHAPES_US}

GRID = list(
    product(SHAPES_US, (0.02, 0.2), (1, 2, 4), (1, 4, 16, 32), (1.0, 3.0), (0.05, 0.3, 0.5, 0.7))
)
CASES = [Case(*values) for values in GRID[::13]]
DELAYED = [Case(*values, delay_us=4000.0) for values in GRID[5::47]]

models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
loads = st.floats(1, 5000)
burstinesses = st.sampled_from([1.0, 1.5, 3.0])


def ratio(case: Case, requests: int = 15_000) -> float:
    """The predicted 99th percentile over the simulated one."""
    model = case.model()
    load = case.load(model)
    predicted = predicted_p99_us(
        model,
        SHARE,
        case.batch_max,
        case.instances,
        load.rate_per_s,
        1.0,
        case.burstiness,
        case.delay_us,
    )
    return predicted / simulated_us(case, model, load, requests)


def test_predictions_are_near_to_a_simulation_and_rather_above() -> None:
    ratios = sorted(ratio(case) for case in CASES)
    near = [each for each in ratios if 0.85 <= each <= 1.5]
    assert len(near) >= 0.92 * len(ratios)
    assert ratios[0] > 0.7
    assert ratios[-1] < 1.7
    assert 0.98 < median(ratios) < 1.12


@pytest.mark.parametrize("busy", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("limit", [8, 16, 32])
def test_small_batches_that_cost_the_same_hide_nothing(limit: int, busy: float) -> None:
    """On a small share many rows take turns on few SMs, while some few run beside each other."""
    times_us = {rows: 4_600.0 * max(1.0, rows / 3.2) for rows in range(1, 33)}
    points = [Measurement(b, SHARE, time_us, time_us, 100) for b, time_us in times_us.items()]
    model = LatencyModel.fit(points)
    case = Case("flat", 0.0, 1, limit, 1.0, busy)
    load = case.load(model)
    predicted_us = predicted_p99_us(model, SHARE, limit, 1, load.rate_per_s)
    assert 0.85 <= predicted_us / simulated_us(case, model, load, 60_000) <= 1.25


def test_with_a_delay_too() -> None:
    ratios = sorted(ratio(case) for case in DELAYED)
    assert ratios[0] > 0.65
    assert ratios[-1] < 1.7
    assert 0.95 < median(ratios) < 1.3


@pytest.mark.parametrize("shape", SHAPES_US)
def test_near_capacity(shape: str) -> None:
    assert 0.75 < ratio(Case(shape, 0.1, 1, 8, 1.0, 0.9), requests=150_000) < 1.5


def test_an_idle_function_takes_a_batch_of_one() -> None:
    model = MODELS["steep"]
    alone = predicted_p99_us(model, SHARE, 8, 1, rate_per_s=0.1)
    assert alone == pytest.approx(model.p99_us(1, SHARE), rel=0.03)
    assert predicted_p99_us(model, SHARE, 8, 1, rate_per_s=0.0) == pytest.approx(alone, rel=0.02)


def test_what_does_not_keep_up_waits_forever() -> None:
    model = MODELS["steep"]
    full = Prediction(model, SHARE, 8, Load(1.0)).capacity_per_s
    assert predicted_p99_us(model, SHARE, 8, 1, 1.01 * full) == inf
    assert Prediction(model, SHARE, 8, Load(1.01 * full)).late(1e12) == 1
    assert predicted_p99_us(model, SHARE, 8, 2, 1.01 * full) < inf


def test_rows_of_a_request_fill_batches() -> None:
    model = MODELS["middle"]
    by_four = Prediction(model, SHARE, 16, Load(1.0, rows_per_request=4.0))
    assert by_four.capacity_per_s == pytest.approx(
        Prediction(model, SHARE, 16, Load(1.0)).capacity_per_s / 4
    )


@given(models, loads, burstinesses, st.sampled_from(BUCKETS), st.integers(1, 4))
def test_the_percentile_is_where_that_part_is_late(
    model: LatencyModel, rate: float, burstiness: float, limit: int, instances: int
) -> None:
    prediction = Prediction(model, SHARE, limit, Load(rate, instances, 1.0, burstiness))
    if prediction.is_stable:
        p99_us = prediction.percentile_us(0.99)
        assert prediction.late(p99_us) <= 0.01 <= prediction.late(0.99 * p99_us)
        assert prediction.percentile_us(0.9) <= p99_us
        assert p99_us >= 0.99 * model.median_us(1, SHARE)


@given(models, burstinesses, st.floats(5_000, 200_000), st.sampled_from(SHARES), st.integers(1, 3))
def test_capacity_meets_the_slo_and_five_percent_more_does_not(
    model: LatencyModel, burstiness: float, slo_us: float, share: float, instances: int
) -> None:
    rate, limit = capacity_per_s(model, share, instances, slo_us, burstiness=burstiness)
    if rate:
        at = predicted_p99_us(model, share, limit, instances, rate, 1.0, burstiness)
        assert at <= slo_us * 1.005
    more = max(1.05 * rate, 1.0)
    best = min(predicted_p99_us(model, share, b, instances, more, 1.0, burstiness) for b in BUCKETS)
    assert best > (0.97 if burstiness == 1 else 0.9) * slo_us


@given(models, burstinesses, st.sampled_from(BUCKETS), st.integers(1, 4))
def test_more_load_is_not_faster(
    model: LatencyModel, burstiness: float, limit: int, instances: int
) -> None:
    full = Prediction(model, SHARE, limit, Load(1.0, instances)).capacity_per_s
    slowest_us = 0.0
    for part in range(5, 100, 5):
        rate = full * part / 100
        at = predicted_p99_us(model, SHARE, limit, instances, rate, 1.0, burstiness)
        assert at > (0.99 if burstiness == 1 else 0.92) * slowest_us
        slowest_us = max(slowest_us, at)


@given(models, st.floats(5_000, 200_000))
def test_a_larger_share_serves_no_less(model: LatencyModel, slo_us: float) -> None:
    rates = [capacity_per_s(model, share, 1, slo_us)[0] for share in (10, 20, 40, 80)]
    assert all(more >= 0.98 * less for less, more in pairwise(rates))


def test_sizes_that_nobody_measured_are_no_limit() -> None:
    """A quick profile has the smallest sizes only."""
    quick = LatencyModel.fit([Measurement(1, 50, 1000, 1100, 4), Measurement(2, 50, 1200, 1300, 4)])
    rate_per_s, limit = capacity_per_s(quick, 50, 1, 100_000, rows_max=32)
    assert limit > 2
    assert rate_per_s >= capacity_per_s(quick, 50, 1, 100_000, rows_max=2)[0]
