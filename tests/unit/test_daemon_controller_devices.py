"""The control loop on several devices: whom it has moved, and whom it leaves alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from gslice.core.types import FunctionSpec, ShareBounds
from gslice.daemon.plan_api import plan_reply
from tests.unit.controller_bench import Bench, spec

TWO = ("one", "other")


def on_either(name: str, **settings: Any) -> FunctionSpec:
    return spec(name, **{"device": "one", "devices": TWO, **settings})


def overloaded(*specs: FunctionSpec, **settings: Any) -> Bench:
    """Two functions that ask for more than their device has, for long enough."""
    bench = Bench(*specs, devices=TWO, **settings)
    bench.run(12, a=1_400, b=1_000)
    return bench


def test_whoever_is_short_is_relieved_by_a_move() -> None:
    bench = overloaded(on_either("a"), on_either("b"))
    assert set(bench.mover.proposed) == {("b", "other")}, "the smaller one relieves it, too"
    (why,) = bench.mover.reasons
    assert why.startswith("one is too small for the SLO of ")
    decisions = bench.controller.decisions
    assert {decision.device for decision in decisions.values()} == {"one"}, "until it has moved"
    reply = plan_reply(bench.controller.what_if(["a.rate=1400", "b.rate=1000"]))
    planned = {each.name: [d.device for d in each.decisions] for each in reply.functions}
    assert planned == {"a": ["one"], "b": ["other"]}


def test_who_is_on_the_way_is_not_limited_as_it_will_be_there() -> None:
    bench = Bench(on_either("a"), devices=TWO)
    bench.run(10, a=100)
    function = bench.supervisor.functions["a"]
    function.spec = replace(function.spec, device="other", slo_p99_us=1_000)  # out of reach
    bench.run(5, a=100)
    assert bench.controller.decisions["a"].shed_us > 0
    assert bench.limits("a")[-1] == (4, 0, 0)
    function.deployment.spec = function.spec
    bench.run(1, a=100)
    assert bench.limits("a")[-1][2] > 0


def test_nobody_moves_at_once_nor_for_one_burst() -> None:
    bench = Bench(on_either("a"), on_either("b"), devices=TWO)
    bench.run(10, a=100, b=100)
    assert bench.mover.proposed == []
    bench.run(1.5, a=1_400, b=1_400)
    assert bench.mover.proposed == []


def test_nobody_moves_where_all_have_enough() -> None:
    bench = Bench(on_either("a"), on_either("b"), devices=TWO)
    bench.run(20, a=400, b=300)
    assert bench.mover.proposed == []


def test_who_is_pinned_stays_and_the_other_goes() -> None:
    bench = overloaded(on_either("a"), on_either("b", devices=()))
    assert set(bench.mover.proposed) == {("a", "other")}


def test_who_moved_just_now_stays() -> None:
    bench = Bench(on_either("a"), on_either("b"), devices=TWO)
    bench.mover.moved = {"b"}
    bench.run(12, a=1_400, b=1_000)
    assert set(bench.mover.proposed) == {("a", "other")}


def test_nobody_moves_where_nobody_knows_what_it_would_take() -> None:
    bench = overloaded(on_either("a"), on_either("b"), measured=("one",))
    assert bench.mover.proposed == []


def test_nobody_moves_to_a_device_that_is_drained() -> None:
    bench = Bench(on_either("a"), on_either("b"), devices=TWO)
    bench.supervisor.drained = {"other"}
    bench.run(12, a=1_400, b=1_000)
    assert bench.mover.proposed == []


def test_nobody_moves_where_it_would_be_worse() -> None:
    busy = spec("c", device="other", share=ShareBounds(90.0, 90.0, auto=False))
    bench = Bench(on_either("a"), on_either("b"), busy, devices=TWO)
    bench.run(12, a=1_000, b=1_000, c=1_000)
    assert bench.mover.proposed == []


def test_a_decision_that_cannot_be_granted_is_told_once() -> None:
    bench = Bench(spec("a"), spec("b"))

    async def refused(shares: dict[str, float], in_turns: Collection[str]) -> None:
        """Somebody who is leaving still has a part of the device."""

    bench.supervisor.sharing.follow = refused
    bench.run(10, a=1_200, b=100)
    told = [text for subject, text in bench.supervisor.events if subject == "a"]
    bench.supervisor.events.clear()
    bench.run(10, a=1_200, b=100)
    assert told
    assert bench.supervisor.events == []
