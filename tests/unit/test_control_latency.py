from __future__ import annotations

import json
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.control.correction import LiveCorrection
from gslice.control.latency import LatencyModel, Measurement
from gslice.control.latency_form import Form
from gslice.control.points import next_points
from gslice.core.errors import InvalidArgument

BUCKETS = (1, 2, 4, 8, 16)
SHARES = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0)
TRUTH = Form(800.0, 120.0, 30_000.0, 9_000.0, saturation_percent=40.0)


def point(bucket: int, share: float, form: Form = TRUTH, error: float = 1.0) -> Measurement:
    time_us = form.time_us(bucket, share) * error
    return Measurement(bucket, share, time_us, 1.2 * time_us, batches=100)


def table(form: Form = TRUTH) -> list[Measurement]:
    return [point(b, p, form) for b in BUCKETS for p in SHARES]


@st.composite
def measurements(draw: st.DrawFn) -> list[Measurement]:
    """Points anywhere, with times that may contradict any order."""
    keys = st.tuples(st.sampled_from(BUCKETS), st.sampled_from(SHARES))
    times = st.tuples(st.floats(10, 1e6), st.floats(1, 3))
    points = draw(st.dictionaries(keys, times, min_size=1, max_size=15))
    return [Measurement(b, p, t, t * tail, 10) for (b, p), (t, tail) in points.items()]


shares_strategy = st.floats(1, 100)
rows_strategy = st.floats(0.5, 40)


@given(measurements(), st.booleans(), rows_strategy, rows_strategy, shares_strategy)
def test_more_rows_never_take_less(
    points: list[Measurement], padded: bool, one: float, other: float, share: float
) -> None:
    model = LatencyModel.fit(points, padded=padded)
    few, many = sorted([one, other])
    for time_us in (model.median_us, model.p99_us):
        assert time_us(few, share) <= time_us(many, share) * (1 + 1e-9)


@given(measurements(), rows_strategy, shares_strategy, shares_strategy)
def test_more_share_never_takes_longer(
    points: list[Measurement], rows: float, one: float, other: float
) -> None:
    model = LatencyModel.fit(points)
    little, much = sorted([one, other])
    for time_us in (model.median_us, model.p99_us):
        assert time_us(rows, much) <= time_us(rows, little) * (1 + 1e-9)


@given(measurements(), rows_strategy, shares_strategy)
def test_times_are_positive_and_the_tail_is_not_below_the_median(
    points: list[Measurement], rows: float, share: float
) -> None:
    model = LatencyModel.fit(points)
    median_us, p99_us = model.median_us(rows, share), model.p99_us(rows, share)
    assert 0 < median_us <= p99_us * (1 + 1e-9)
    mean_us = model.mean_curve(share).time_us(rows)
    assert median_us * (1 - 1e-9) <= mean_us <= p99_us * (1 + 1e-9)


@given(
    st.lists(st.floats(0, 1e4), min_size=4, max_size=4).filter(lambda ks: sum(ks[1:]) > 1),
    st.sampled_from(SHARES[2:]),
)
def test_a_table_in_order_is_met_at_every_point(coefficients: list[float], knee: float) -> None:
    points = table(Form(*coefficients, saturation_percent=knee))
    model = LatencyModel.fit(points)
    for each in points:
        assert model.median_us(each.bucket, each.share_percent) == pytest.approx(each.median_us)
        assert model.p99_us(each.bucket, each.share_percent) == pytest.approx(each.p99_us)


def test_between_the_points_a_law_is_found_again() -> None:
    model = LatencyModel.fit([point(b, p) for b in (1, 4, 16) for p in (5, 15, 40, 100)])
    assert model.error_percent < 1
    for rows in (1, 2, 3, 8, 12, 24):
        for share in (5, 7, 12, 25, 40, 70, 100):
            expected = pytest.approx(TRUTH.time_us(rows, share), rel=0.02)
            assert model.median_us(rows, share) == expected


def test_a_time_that_falls_a_little_beyond_saturation_is_followed() -> None:
    points = [point(b, p, error=1 - 0.001 * max(0, p - 40)) for b in BUCKETS for p in SHARES]
    model = LatencyModel.fit(points)
    assert model.median_us(4, 90) == pytest.approx(TRUTH.time_us(4, 90) * 0.95, rel=0.01)


def test_noise_against_the_order_is_shared_by_those_it_stands_between() -> None:
    model = LatencyModel.fit(
        [Measurement(b, 50, t, t, 9) for b, t in [(1, 100), (2, 110), (4, 99)]]
    )
    assert model.median_us(2, 50) == pytest.approx((110 * 99) ** 0.5)
    assert model.median_us(4, 50) == pytest.approx((110 * 99) ** 0.5)


def test_one_point_promises_little() -> None:
    model = LatencyModel.fit([Measurement(8, 40, 1000, 1100, 5)])
    times = {(b, p): model.median_us(b, p) for b, p in [(1, 40), (8, 90), (16, 40), (8, 20)]}
    expected = {(1, 40): 1000, (8, 90): 1000, (16, 40): 2000, (8, 20): 2000}
    assert times == pytest.approx(expected)
    assert model.p99_us(8, 20) == pytest.approx(2200)
    assert model.buckets == (8,)


def test_a_padded_batch_takes_as_long_as_the_next_bucket() -> None:
    model = LatencyModel.fit(table(), padded=True)
    assert model.median_us(5, 50) == model.median_us(8, 50)
    assert model.median_us(4, 50) < model.median_us(4.1, 50)


def test_the_knee_is_where_more_share_stops_paying() -> None:
    saturates = LatencyModel.fit(table(Form(0.0, 0.0, 0.0, 9_000.0, saturation_percent=30.0)))
    assert saturates.knee_percent(4) == 30
    # 1 % more share saves half a percent where the fixed part is as long as the divided one.
    bends = LatencyModel.fit(table(Form(1000.0, 0.0, 20_000.0, 0.0, saturation_percent=100.0)))
    assert bends.knee_percent(1) == pytest.approx(20, rel=0.05)
    flat = LatencyModel.fit(table(Form(1000.0, 0.0, 0.0, 0.0, saturation_percent=100.0)))
    assert flat.knee_percent(1) == SHARES[0]


def test_scaled_twice_is_scaled_by_the_product() -> None:
    model = LatencyModel.fit(table())
    twice = model.scaled(2.0).scaled(1.5)
    assert twice.median_us(3, 33) == pytest.approx(3 * model.median_us(3, 33))
    assert twice.p99_us(40, 3) == pytest.approx(3 * model.p99_us(40, 3))


def test_json_gives_the_same_model() -> None:
    model = LatencyModel.fit(table(), padded=True).scaled(1.25)
    again = LatencyModel.from_json(json.loads(json.dumps(model.to_json())))
    assert again.median_us(5, 33) == model.median_us(5, 33)
    assert again.p99_us(5, 33) == model.p99_us(5, 33)


def test_the_later_of_two_measurements_counts() -> None:
    model = LatencyModel.fit([Measurement(1, 50, 900, 990, 5), Measurement(1, 50, 700, 770, 5)])
    assert model.median_us(1, 50) == pytest.approx(700)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Measurement(0, 50, 1, 1, 1)],
        [Measurement(1, 0, 1, 1, 1)],
        [Measurement(1, 101, 1, 1, 1)],
        [Measurement(1, 50, 0, 1, 1)],
        [Measurement(1, 50, 2, 1, 1)],
        [Measurement(1, 50, 1, 1, 0)],
    ],
)
def test_impossible_points_are_refused(points: list[Measurement]) -> None:
    with pytest.raises(InvalidArgument):
        LatencyModel.fit(points)


# ---- which point next ---------------------------------------------------------------------------


def test_few_points_find_the_bend() -> None:
    points: list[Measurement] = []
    while (following := next_points(points, SHARES, BUCKETS)) is not None:
        points.append(point(*following))
    assert len(points) < len(SHARES) * len(BUCKETS) / 2
    model = LatencyModel.fit(points)
    errors = [
        abs(log(model.median_us(b, p) / TRUTH.time_us(b, p))) for b in BUCKETS for p in SHARES
    ]
    assert max(errors) < 0.1
    assert sorted(errors)[len(errors) // 2] < 0.02


@given(measurements())
def test_no_point_is_measured_twice(points: list[Measurement]) -> None:
    following = next_points(points, SHARES, BUCKETS)
    assert following not in {(m.bucket, m.share_percent) for m in points}


def test_a_grid_of_one_point_is_measured_once() -> None:
    assert next_points([], [50.0], [1]) == (1, 50.0)
    assert next_points([point(1, 50.0)], [50.0], [1]) is None


# ---- live correction ----------------------------------------------------------------------------


def test_a_lasting_difference_is_followed() -> None:
    model = LatencyModel.fit(table())
    correction = LiveCorrection(model)
    mean_us = (3 * TRUTH.time_us(2, 30) + TRUTH.time_us(8, 30)) / 4
    for _ in range(20):
        correction.observe({2: 75, 8: 25}, 1.4 * mean_us, 30)
    assert correction.factor == pytest.approx(1.4, rel=0.03)  # of the mean, which is 1 % longer
    assert model.scaled(correction.factor).median_us(2, 30) > 1.35 * model.median_us(2, 30)


def test_few_batches_say_nothing() -> None:
    correction = LiveCorrection(LatencyModel.fit(table()))
    correction.observe({1: 9}, 1e6, 30)
    correction.observe({}, 0.0, 30)
    assert correction.factor == 1


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e9)), max_size=30))
def test_a_stall_moves_the_factor_by_little(intervals: list[tuple[int, float]]) -> None:
    correction = LiveCorrection(LatencyModel.fit(table()))
    for batches, mean_us in intervals:
        before = correction.factor
        correction.observe({1: batches}, mean_us, 30)
        assert before / 1.6 < correction.factor < before * 1.6
