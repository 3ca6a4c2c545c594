"""What live traffic says of a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gslice.control.arrivals import SECOND_NS
from gslice.control.latency import LatencyModel, Measurement
from gslice.core.types import FunctionSpec
from gslice.daemon.watch import Watch

SPEC = FunctionSpec("f", slo_p99_us=50_000)
MODEL = LatencyModel.fit([Measurement(1, 50.0, 1_000.0, 1_100.0, 50)])


class Counters:
    """Counts as a segment would."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {
            **dict.fromkeys(("arrived", "answered", "rows", "executions", "compute_busy_ns"), 0),
            "batch_rows": np.zeros(129, np.uint64),
        }

    def serve(self, requests: int, rows: int = 1, batch_us: float = 1_000.0) -> None:
        batch_rows = self.now["batch_rows"].copy()
        batch_rows[rows] += np.uint64(requests)
        before = self.now
        self.now = {
            "arrived": before["arrived"] + requests,
            "answered": before["answered"] + requests,
            "rows": before["rows"] + requests * rows,
            "executions": before["executions"] + requests,
            "compute_busy_ns": before["compute_busy_ns"] + round(requests * batch_us * 1e3),
            "batch_rows": batch_rows,
        }


def watched(seconds: int, requests: int, **batch: Any) -> tuple[Watch, int]:
    watch, counters = Watch(), Counters()
    watch.use(MODEL)
    for tick in range(4 * seconds):
        watch.observe(tick * SECOND_NS // 4, 1, counters.now, 50.0)
        counters.serve(requests // 4, **batch)
    return watch, (4 * seconds - 1) * SECOND_NS // 4


def test_the_rate_is_that_of_arrivals() -> None:
    watch, now_ns = watched(10, 200)
    demand = watch.demand(now_ns, SPEC, MODEL, 8)
    assert demand.rate_per_s == pytest.approx(200, rel=0.06)
    assert demand.slo_us == 50_000
    assert demand.rows_max == 8
    assert demand.devices == ("cpu",)


def test_before_anything_was_seen_one_request_is_planned_for() -> None:
    demand = Watch().demand(0, SPEC, None, 0)
    assert demand.rate_per_s == 0
    assert demand.busiest_per_s == 1
    assert demand.models == {}


def test_rows_of_a_request_are_learned_where_they_can_be_batched() -> None:
    watch, now_ns = watched(20, 40, rows=4)
    assert watch.demand(now_ns, SPEC, MODEL, 8).rows_per_request == pytest.approx(4, rel=0.05)
    assert watch.demand(now_ns, SPEC, MODEL, 0).rows_per_request == 1.0


def test_the_model_follows_what_batches_really_take() -> None:
    watch, now_ns = watched(20, 200, batch_us=2_000.0)
    model = watch.demand(now_ns, SPEC, MODEL, 1).models["cpu"]
    assert model.median_us(1, 50.0) == pytest.approx(2_000, rel=0.12)
    assert watch.demand(now_ns, SPEC, MODEL, 1).models["cpu"] is model  # the same until it is off


def test_what_slowed_batches_down_is_forgotten_when_nothing_runs() -> None:
    watch, now_ns = watched(20, 200, batch_us=4_000.0)
    slow = watch.demand(now_ns, SPEC, MODEL, 1).models["cpu"].median_us(1, 50.0)
    idle = Counters()
    idle.now = {**idle.now, "arrived": 10_000}
    watch.observe(now_ns, 1, idle.now, 50.0)
    for second in range(1, 200):
        watch.observe(now_ns + second * SECOND_NS, 1, idle.now, 50.0)
    assert watch.demand(now_ns, SPEC, MODEL, 1).models["cpu"].median_us(1, 50.0) < slow / 2


def test_another_profile_is_used_at_once_and_arrivals_stay() -> None:
    watch, now_ns = watched(10, 200)
    other = LatencyModel.fit([Measurement(1, 50.0, 5_000.0, 5_500.0, 50)])
    watch.use(other)
    demand = watch.demand(now_ns, SPEC, other, 1)
    assert demand.models["cpu"].median_us(1, 50.0) == pytest.approx(5_000, rel=0.01)
    assert demand.rate_per_s > 100
    watch.use(None)
    assert watch.demand(now_ns, SPEC, None, 1).models == {}


def test_another_segment_is_another_count_of_the_same_requests() -> None:
    watch, now_ns = watched(10, 200, batch_us=2_000.0)
    counters = Counters()
    for tick in range(1, 5):
        counters.serve(50, batch_us=2_000.0)
        watch.observe(now_ns + tick * SECOND_NS // 4, 2, counters.now, 50.0)
        demand = watch.demand(now_ns + tick * SECOND_NS // 4, SPEC, MODEL, 1)
        assert demand.rate_per_s == pytest.approx(200, rel=0.3)
        assert demand.models["cpu"].median_us(1, 50.0) == pytest.approx(2_000, rel=0.15)


def test_batches_of_two_shares_are_taken_for_neither() -> None:
    watch, now_ns = watched(30, 100, batch_us=1_000.0)
    counters = Counters()
    for tick in range(1, 200):  # at twice the share half as long; it changes between two looks
        share, other = (100.0, 50.0) if tick // 6 % 2 else (50.0, 100.0)
        seen = other if tick % 6 == 5 else share
        counters.serve(25, batch_us=50_000.0 / share)
        watch.observe(now_ns + tick * SECOND_NS // 4, 2, counters.now, seen)
    model = watch.demand(now_ns, SPEC, MODEL, 1).models["cpu"]
    assert model.median_us(1, 50.0) == pytest.approx(1_000, rel=0.15)
    assert model.median_us(1, 100.0) == pytest.approx(500, rel=0.3)
