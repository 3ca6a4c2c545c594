from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.telemetry.window import SECOND_NS, Figures, Sample, Window, percentile_us

BOUNDS = np.array([0.0, 10.0, 20.0, 40.0, 80.0])


def sample(at_s: float, answered: int, bins: list[int], rows: int = 0, batches: int = 0) -> Sample:
    return Sample(int(at_s * SECOND_NS), answered, rows, batches, np.array(bins, np.uint64))


def test_no_figures_before_two_samples() -> None:
    window = Window()
    assert window.figures(BOUNDS) == Figures()
    window.add(sample(0, 10, [10, 0, 0, 0]))
    assert window.figures(BOUNDS) == Figures()


def test_figures_are_differences_over_the_time_between() -> None:
    window = Window()
    window.add(sample(0, 1000, [1000, 0, 0, 0], rows=1000, batches=1000))
    window.add(sample(2, 1100, [1000, 100, 0, 0], rows=1400, batches=1100))
    figures = window.figures(BOUNDS)
    assert figures.rate_per_s == 50
    assert figures.p50_us == pytest.approx(15)
    assert figures.p99_us == pytest.approx(19.9)
    assert figures.batch_mean_rows == 4


def test_samples_older_than_the_span_no_longer_count() -> None:
    window = Window(span_ns=2 * SECOND_NS)
    window.add(sample(0, 0, [0, 0, 0, 0]))
    for second in range(1, 10):
        window.add(sample(second, 1000, [0, 0, 1000, 0]))
    assert window.figures(BOUNDS) == Figures()


@given(
    counts=st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any),
    fraction=st.floats(0.01, 1.0),
)
def test_a_percentile_lies_in_the_bin_that_holds_it(counts: list[int], fraction: float) -> None:
    bins = np.array(counts, np.int64)
    value = percentile_us(bins, BOUNDS, fraction)
    at_or_below = sum(c for c, low in zip(counts, BOUNDS[:-1], strict=True) if low < value)
    assert at_or_below >= fraction * sum(counts) - 1e-6
    assert BOUNDS[0] <= value <= BOUNDS[-1]


@given(counts=st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any))
def test_percentiles_never_fall_with_the_fraction(counts: list[int]) -> None:
    bins = np.array(counts, np.int64)
    values = [percentile_us(bins, BOUNDS, f) for f in (0.01, 0.5, 0.9, 0.99, 1.0)]
    assert values == sorted(values)


def test_attainment_is_the_part_within_the_slo() -> None:
    window = Window()
    window.add(sample(0, 0, [0, 0, 0, 0]))
    window.add(sample(1, 100, [50, 0, 40, 10]))
    assert window.figures(BOUNDS, 20.0).attainment == pytest.approx(0.5)
    assert window.figures(BOUNDS, 30.0).attainment == pytest.approx(0.7)
    assert window.figures(BOUNDS, 1000.0).attainment == 1
    assert window.figures(BOUNDS).attainment == 0
