"""When a function gets another replica, when one goes, and that a steady load swings nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gslice.control.arrivals import SECOND_NS
from gslice.core.types import FunctionSpec, ReplicaBounds
from tests.unit.test_daemon_controller import Bench, spec

THREE = ("one", "other", "third")
AUTO = ReplicaBounds(1, 8)
FAR_TOO_MANY = 1_900  # for one device, not for two


def on_any(name: str = "a", replicas: ReplicaBounds = AUTO, **settings: Any) -> FunctionSpec:
    return spec(name, device="one", devices=THREE, replicas=replicas, **settings)


class Moving(Bench):
    """A bench whose functions go where they are told, and rest after that."""

    def __init__(self, *specs: FunctionSpec, **settings: Any) -> None:
        super().__init__(*specs, devices=THREE, **settings)
        self.changes: list[tuple[str, ...]] = []
        self.moved_ns = 0
        self.mover.rested = lambda name: self.now_ns - self.moved_ns >= 30 * SECOND_NS  # type: ignore[method-assign]
        self.mover.propose = self._move  # type: ignore[assignment]

    def _move(self, name: str, devices: Any, why: str) -> None:
        if not self.mover.rested(name):
            return
        function = self.supervisor.functions[name]
        function.spec = function.deployment.spec = function.spec.placed_on(devices)
        self.changes.append(tuple(devices))
        self.moved_ns = self.now_ns


def test_who_is_short_on_a_whole_device_gets_another_one() -> None:
    bench = Bench(on_any(), devices=THREE)
    bench.run(12, a=FAR_TOO_MANY)
    assert set(bench.mover.proposed) == {("a", "one, other")}
    assert bench.mover.reasons == {"one is too small for the SLO of a"}


@pytest.mark.parametrize("replicas", [ReplicaBounds(), ReplicaBounds(1, 1)])
def test_no_more_than_may_be(replicas: ReplicaBounds) -> None:
    bench = Bench(on_any(replicas=replicas), devices=THREE)
    bench.run(12, a=FAR_TOO_MANY)
    assert bench.mover.proposed == []


def test_a_replica_goes_only_where_the_same_profile_holds() -> None:
    bench = Bench(on_any(), devices=THREE, measured=("one", "third"))
    bench.run(12, a=FAR_TOO_MANY)
    assert set(bench.mover.proposed) == {("a", "one, third")}


def test_both_replicas_have_one_share_and_half_of_the_requests() -> None:
    bench = Bench(on_any(replicas=ReplicaBounds(2, 2)).placed_on(("one", "other")), devices=THREE)
    bench.run(12, a=1_000)
    decision = bench.controller.decisions["a"]
    assert decision.device == "one, other"
    assert decision.rate_per_s == pytest.approx(1_000, rel=0.05)
    assert decision.capacity_per_s > 1_000
    assert decision.shed_us == 0
    plan = bench.controller.what_if([]).plan["a"]
    assert [each.device for each in plan] == ["one", "other"]
    assert plan[0].share_percent == plan[1].share_percent == decision.share_percent


def test_a_replica_that_is_not_needed_goes_after_a_minute() -> None:
    bench = Moving(on_any().placed_on(("one", "other")))
    bench.run(50, a=100)
    assert bench.changes == []
    bench.run(30, a=100)
    assert bench.changes == [("one",)]
    bench.run(200, a=100)
    assert bench.changes == [("one",)], "the last one stays"


def test_a_replica_is_needed_as_long_as_the_others_have_no_clear_room() -> None:
    bench = Moving(on_any().placed_on(("one", "other")))
    bench.run(200, a=1_000)
    assert bench.changes == []
    few = Moving(on_any(replicas=ReplicaBounds(2, 3)).placed_on(("one", "other")))
    few.run(100, a=50)
    assert few.changes == [], "fewer than the minimum are too few"


def test_what_grows_gets_one_after_the_other_and_what_shrinks_gives_them_back() -> None:
    bench = Moving(on_any())
    bench.run(120, a=5_000)
    assert bench.changes == [("one", "other"), ("one", "other", "third")]
    bench.run(250, a=100)
    assert bench.changes[2:] == [("one", "other"), ("one",)]


@settings(max_examples=settings.default.max_examples // 8)
@given(st.integers(5, 80), st.integers(0, 20))
def test_a_steady_load_swings_nothing(rate: int, neighbour: int) -> None:
    bench = Moving(on_any(), replace(on_any("b"), replicas=ReplicaBounds()))
    bench.run(240, a=40 * rate, b=40 * neighbour)
    settled = len(bench.changes)
    assert settled <= 3
    bench.run(300, a=40 * rate, b=40 * neighbour)
    assert len(bench.changes) == settled
