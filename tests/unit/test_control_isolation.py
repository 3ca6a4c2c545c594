"""Functions that share no device: who may be beside whom, and where the planner puts them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gslice.control.demand import Allotment, Demand, DeviceShares
from gslice.control.explain import reason
from gslice.control.isolation import apart, by_claim, in_the_way, refusal
from gslice.control.plan import Planner
from gslice.core.types import FunctionSpec, ShareBounds

THREE = {name: DeviceShares(name) for name in ("one", "two", "three")}
ALONE = FunctionSpec("alone", isolation="exclusive")
SHARED = FunctionSpec("shared")


def demand(name: str, *devices: str, exclusive: bool = False, min_percent: float = 1.0) -> Demand:
    bounds = ShareBounds(min_percent, 100.0)
    return Demand(name, 1.0, devices=devices, exclusive=exclusive, bounds=bounds, replicas_max=1)


def placed(*demands: Demand, **current: str) -> dict[str, list[str]]:
    has = {name: [Allotment(device, 50.0, rate_per_s=1.0)] for name, device in current.items()}
    return {name: list(on) for name, on in Planner().place(demands, THREE, has).items()}


def test_who_may_be_together() -> None:
    assert apart(ALONE, SHARED)
    assert apart(SHARED, ALONE)
    assert not apart(SHARED, replace(SHARED, name="other"))
    assert not apart(ALONE, ALONE), "nobody is in his own way"
    assert in_the_way(ALONE, [SHARED, replace(SHARED, name="a"), ALONE]) == ["a", "shared"]
    assert in_the_way(SHARED, [ALONE, replace(SHARED, name="a")]) == ["alone"]


def test_a_refusal_is_one_line() -> None:
    assert refusal(ALONE, {"cpu:0": ["a", "b"], "cpu:1": ["c"]}) == (
        "it wants a device to itself (isolation: exclusive), and others are on cpu:0 (a, b),"
        " cpu:1 (c)"
    )
    assert refusal(SHARED, {"cpu:0": ["alone"]}) == (
        "exclusive functions have to themselves what it may run on: cpu:0 (alone)"
    )


def test_who_has_least_choice_comes_first_where_one_needs_an_empty_device() -> None:
    several = ("one", "two")
    pinned, free = replace(SHARED, name="pinned"), replace(SHARED, devices=several)
    chooser = replace(ALONE, devices=several)
    assert by_claim([free, chooser, pinned]) == [pinned, chooser, free]
    assert by_claim([free, pinned]) == [free, pinned], "else nothing changes"


def test_it_gets_an_empty_device_before_those_that_can_share() -> None:
    everywhere = tuple(THREE)
    found = placed(
        demand("a", *everywhere),
        demand("pinned", "one"),
        demand("b", *everywhere),
        demand("alone", *everywhere, exclusive=True),
    )
    mine = found["alone"]
    assert mine != ["one"], "pinned can be nowhere else"
    assert found["pinned"] == ["one"]
    assert all(found[name] != mine for name in ("a", "b"))


def test_where_no_device_is_empty_it_is_left_out() -> None:
    pinned = [demand(f"on {name}", name) for name in THREE]
    assert "alone" not in placed(*pinned, demand("alone", *THREE, exclusive=True))
    alone = [demand(f"alone on {name}", name, exclusive=True) for name in THREE]
    assert "shared" not in placed(*alone, demand("shared", *THREE))


def test_nobody_moves_to_a_device_that_another_has_to_itself() -> None:
    """`one` is asked for more than it has; `two` would be roomy, and is taken."""
    crowd = [demand(name, "one", "two", "three", min_percent=60.0) for name in "ab"]
    alone = demand("alone", "two", exclusive=True)
    found = placed(*crowd, alone, a="one", b="one", alone="two")
    assert sorted([found["a"], found["b"]]) == [["one"], ["three"]]
    assert found["alone"] == ["two"]


def test_it_has_all_of_its_device_and_the_plan_says_so() -> None:
    limited = {"one": DeviceShares("one", limit_percent=80.0)}
    planner = Planner()
    for before in (0.0, 30.0):
        current = {"alone": [Allotment("one", before)]} if before else {}
        decided = planner.plan(before, [demand("alone", "one", exclusive=True)], limited, current)
        (allotment,) = decided["alone"]
        assert allotment.share_percent == pytest.approx(80.0)
        assert reason(allotment) == "80% of one, to itself: no SLO"
