"""What the live goodput benchmark makes of calls and samples, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.goodput.live.course import MODELS, SLO_BATCHES, Course, measured
from benchmarks.goodput.live.plot import draw
from benchmarks.goodput.live.record import Recording, Sample
from benchmarks.goodput.live.ways import EQUAL, SLO, UNCONTROLLED, Way, grid
from benchmarks.goodput.report import figures, row
from benchmarks.goodput.scene import Function
from benchmarks.goodput.state import ANSWERED, ARRIVED, EXPIRED, LATE, SHED
from benchmarks.load import Call
from gslice.control.latency import Measurement

COURSE = Course(20.0, warm_up_s=2.0, after_step_s=2.0)
START_S = 1000.0
OVERLOAD = "the call failed: overload: the answer is predicted in 9 ms"
FIRST, SECOND = (model.name for model in MODELS)


def function(place: int = 0, row_us: float = 10_000.0) -> Function:
    """Whose batches take what they compute, at any share."""
    points = [
        Measurement(rows, share, rows * row_us * 100 / share, rows * row_us * 105 / share, 50)
        for rows in (1, 2, 4)
        for share in (10.0, 50.0, 100.0)
    ]
    return measured(MODELS[place], points)


FUNCTIONS = {FIRST: function(0), SECOND: function(1, 20_000.0)}
WORKLOAD = COURSE.workload(FUNCTIONS)


def recorded(
    calls: Sequence[Call] = (), samples: Sequence[Sample] | None = None, cores: int = 1
) -> Recording:
    if samples is None:
        samples = [sample(at_s) for at_s in (0.0, 20.0)]
    return Recording(WORKLOAD, START_S, {FIRST: calls, SECOND: []}, samples, cores)


def sample(at_s: float, share: float = 50.0, busy_s: float = 0.0) -> Sample:
    return Sample(at_s, {FIRST: share, SECOND: 100 - share}, busy_s, 0.01 * at_s)


def call(at_s: float, took_ms: float, error: str = "") -> Call:
    return Call(START_S + at_s, START_S + at_s + took_ms / 1e3, error)


# ---- what is asked ---------------------------------------------------------------------------


def test_slos_and_rates_follow_from_the_profile() -> None:
    asked, other = WORKLOAD.functions
    assert (asked.slo_ms, other.slo_ms) == (SLO_BATCHES * 20, SLO_BATCHES * 40)
    assert asked.rate_per_s == pytest.approx(0.10 * 100)
    assert other.rate_per_s == pytest.approx(0.50 * 50)


def test_what_is_asked_most_of_before_the_step_is_asked_least_of_after_it() -> None:
    before, after = (
        [asked.rate_per_s * float(asked.curve(np.array([at_s]))[0]) for asked in WORKLOAD.functions]
        for at_s in (0.0, COURSE.step_s)
    )
    whole_per_s = [100.0, 50.0]
    parts = [
        [rate / whole for rate, whole in zip(rates, whole_per_s, strict=True)]
        for rates in (before, after)
    ]
    assert parts[0] == pytest.approx([0.10, 0.50])
    assert parts[1] == pytest.approx([0.50, 0.10])


def test_no_fixed_division_is_right_for_both_halves() -> None:
    """Each half has one: what the device has to do is well below what it can."""
    for loads in zip(*(model.loads_percent for model in MODELS), strict=True):
        assert sum(loads) < 70
    most = [max(model.loads_percent) for model in MODELS]
    assert sum(most) >= 100


def test_warm_ups_are_the_beginning_and_what_follows_the_step() -> None:
    assert WORKLOAD.warm_ups_s == ((0.0, 2.0), (10.0, 12.0))


# ---- how it is divided -----------------------------------------------------------------------


def test_the_grid_goes_as_far_on_both_sides() -> None:
    ways = grid(20.0, 15.0)
    assert [way.shares_percent for way in ways] == [
        *((20.0, 80.0), (35.0, 65.0), (50.0, 50.0), (65.0, 35.0), (80.0, 20.0))
    ]
    assert all(way.fixed for way in (*ways, EQUAL))
    assert not any(way.fixed for way in (SLO, UNCONTROLLED))


def test_who_is_controlled_is_told_the_slo_and_may_have_fixed_shares() -> None:
    body = SLO.functions(FUNCTIONS)[FIRST]
    assert body["slo"] == {"p99": "160000us"}
    assert "share" not in body
    fixed = grid(20.0, 15.0)[0].functions(FUNCTIONS)
    assert [fixed[name]["share"] for name in (FIRST, SECOND)] == ["20%", "80%"]
    assert fixed[FIRST]["slo"] == body["slo"]


@pytest.mark.parametrize(("share", "rows"), [(20.0, 1), (35.0, 2), (50.0, 4)])
def test_without_a_controller_batches_take_half_of_the_slo(share: float, rows: int) -> None:
    bodies = Way("off", (share, 100 - share), controlled=False).functions(FUNCTIONS)
    assert bodies[FIRST]["batch"] == {"max": rows}
    assert "slo" not in bodies[FIRST]


# ---- books -----------------------------------------------------------------------------------


def test_calls_are_counted_where_they_were_due() -> None:
    lost = Call(START_S + 5.1)
    calls = [
        *(call(5.0, 159.0), call(5.1, 161.0), call(5.2, 3.0, OVERLOAD), lost),
        *(call(5.3, 1.0), call(19.99, 400.0)),
    ]
    counts = recorded(calls).run().counts
    assert counts.shape == (80, 2, 5)
    expected = np.zeros(5, int)
    expected[[ARRIVED, ANSWERED, LATE, SHED, EXPIRED]] = 4, 2, 1, 1, 1
    assert counts[20, 0].tolist() == expected.tolist()
    assert counts[21, 0, ARRIVED] == 1
    assert counts[79, 0, [ARRIVED, LATE]].tolist() == [1, 1]
    assert counts[:, 1].sum() == 0


def test_a_call_that_is_due_after_the_end_belongs_to_the_last_window() -> None:
    assert recorded([call(20.01, 1.0)]).counts()[-1, 0, ARRIVED] == 1


def test_figures_leave_warm_ups_out_and_tell_of_them_apart() -> None:
    calls = [
        *(call(1.0 + 0.01 * i, 900.0) for i in range(10)),
        *(call(5.0 + 0.01 * i, 10.0) for i in range(32)),
        *(call(11.0 + 0.01 * i, 10.0) for i in range(10)),
    ]
    found = figures(WORKLOAD, recorded(calls).run())
    assert found["requests"] == 32
    assert found["goodput_rps"] == 2.0  # in 16 s
    assert found["violation_pct"] == 0.0
    assert found["warm_up_violation_pct"] == 50.0


def test_utilisation_is_processor_time_by_the_device_s_cores() -> None:
    samples = [sample(at_s, busy_s=3.0 + 0.4 * at_s) for at_s in (0.0, 7.3, 20.0)]
    found = figures(WORKLOAD, recorded(samples=samples, cores=2).run())
    assert found["util_pct"] == pytest.approx(20.0)
    assert found["control_core_pct"] == pytest.approx(1.0)


def test_a_change_of_shares_counts_for_each_function() -> None:
    shares = [50.0, 50.0, 70.0, 70.001, 30.0]
    samples = [sample(float(at_s), share) for at_s, share in enumerate(shares)]
    assert recorded(samples=samples).share_changes() == 4


def test_only_errors_that_are_no_refusals_are_failures() -> None:
    queue = "the call failed: the queue of filetype is full"
    calls = [call(1, 1, OVERLOAD), call(2, 1, queue), call(3, 1, "no such model"), call(4, 1)]
    assert recorded(calls).failures() == {"no such model": 1}


def test_a_row_is_the_simulation_s_with_its_own_mode() -> None:
    found = [figures(WORKLOAD, recorded([call(5.0, ms)]).run()) for ms in (10.0, 10.0, 999.0)]
    made = row(WORKLOAD, "slo", found, mode="live")
    assert made["mode"] == "live"
    assert made["violation_pct"] == 0.0
    assert {"workload", "policy", "goodput_rps", "util_pct", "resizes"} <= made.keys()


# ---- the picture -----------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [[], [call(5.0, 10.0), call(6.0, 1.0, OVERLOAD), Call(START_S)]])
def test_a_picture_is_drawn_of_what_little_there_is(calls: list[Call], tmp_path: Path) -> None:
    path = tmp_path / "live.png"
    draw([recorded(calls)], [recorded(calls)] * 2, "fixed 50:50", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 150_000
