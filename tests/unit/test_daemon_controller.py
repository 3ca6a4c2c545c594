"""The control loop: what it reads, what it orders, and what it leaves alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gslice.control.explain import predicted_p99_us, reason
from gslice.core.types import FunctionSpec, ShareBounds
from gslice.daemon.plan_api import plan_reply
from tests.unit.controller_bench import Bench, FakeSegment, spec


def test_shares_follow_a_load_step_within_five_seconds() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(20, a=100, b=100)
    before = bench.share("a")
    bench.run(5, a=1_200, b=100)
    assert bench.share("a") > before
    decision = bench.controller.decisions["a"]
    assert decision.capacity_per_s > 1_200
    assert predicted_p99_us(decision) < 50_000
    subjects = [subject for subject, text in bench.supervisor.events if "->" in text]
    assert "a" in subjects


def test_while_shadows_are_on_their_way_shares_stay() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(20, a=100, b=100)
    before, deployment = bench.share("a"), bench.supervisor.functions["b"].deployment
    deployment.stale = lambda: [SimpleNamespace(device="cpu")]
    bench.run(5, a=1_200, b=100)
    assert bench.share("a") == before
    assert bench.limits("a")[-1][2] > 0  # what the share cannot serve is shed at once
    deployment.stale = list
    bench.run(1, a=1_200, b=100)
    assert bench.share("a") > before


def test_without_an_slo_on_a_device_nothing_is_decided_there() -> None:
    bench = Bench(spec("a", slo_ms=0), spec("b", slo_ms=0))
    bench.run(5, a=100, b=900)
    assert bench.controller.decisions == {}
    assert bench.share("a") == bench.share("b") == 50
    assert bench.limits("a") == [(4, 0, 0)]


def test_what_is_admitted_is_what_serves_not_what_was_decided() -> None:
    bench = Bench(spec("a"), spec("b"))
    deployment = bench.supervisor.functions["a"].deployment
    deployment.share_effective_percent = 5.0  # its shadow is loading
    bench.run(10, a=600, b=1)
    assert bench.share("a") > 60
    assert bench.limits("a")[-1][2] == 47_500_000
    deployment.share_effective_percent = bench.share("a")
    bench.run(1, a=600, b=1)
    assert bench.limits("a")[-1][2] == 0


def test_a_pinned_share_is_left_alone_and_sheds_when_it_must() -> None:
    bench = Bench(spec("pinned", share=ShareBounds(50.0, 50.0, auto=False)), spec("b"))
    bench.run(10, pinned=2_000, b=10)
    assert bench.share("pinned") == 50
    assert bench.limits("pinned")[-1] == (4, 0, 47_500_000)
    bench.run(10, pinned=20, b=10)
    assert bench.limits("pinned")[-1][2] > 0  # it may come again
    bench.run(100, pinned=20, b=10)
    assert bench.limits("pinned")[-1][2] == 0


def test_limits_are_told_again_to_another_segment_only() -> None:
    bench = Bench(spec("a", delay_us=300))
    bench.run(10, a=50)
    told = len(bench.limits("a"))
    bench.run(5, a=50)
    assert len(bench.limits("a")) == told
    assert bench.limits("a")[-1][1] == 300_000
    segment = bench.supervisor.functions["a"].deployment.segment = FakeSegment()
    segment.generation = 2
    bench.run(1, a=50)
    assert segment.limits


def test_where_slos_are_too_tight_for_shares_side_by_side_functions_take_turns() -> None:
    bench = Bench(*(FunctionSpec(name, slo_p99_us=2_600) for name in "abc"))
    bench.run(15, a=20, b=20, c=20)
    assert bench.supervisor.in_turns == {"cpu"}
    assert sum(map(bench.share, "abc")) > 100
    reasons = [reason(decision) for decision in bench.controller.decisions.values()]
    assert all("% of cpu in turns: " in each for each in reasons), reasons
    for function in bench.supervisor.functions.values():
        function.spec = replace(function.spec, slo_p99_us=50_000)
    bench.run(30, a=20, b=20, c=20)
    assert bench.supervisor.in_turns == set()
    assert sum(map(bench.share, "abc")) <= 100


def test_another_segment_is_no_rest() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(20, a=600, b=600)
    before, told = bench.share("a"), bench.limits("a")[-1]
    segment = bench.supervisor.functions["a"].deployment.segment = FakeSegment()
    segment.generation = 2
    for _ in range(4):
        bench.run(0.5, a=600, b=600)
        assert (bench.share("a"), bench.limits("a")[-1]) == (before, told)


def test_nothing_is_decided_of_those_that_were_adopted_just_now() -> None:
    bench = Bench(spec("a"), spec("b"))
    for name, share in (("a", 90.0), ("b", 10.0)):
        bench.supervisor.functions[name].share_granted_percent = share
        bench.supervisor.functions[name].deployment.share_effective_percent = share
    bench.run(0.5, a=1_200, b=100)
    assert (bench.share("a"), bench.share("b")) == (90, 10)
    assert bench.limits("a") == []  # what the daemon before this one told it holds
    bench.run(20, a=1_200, b=100)
    assert bench.share("a") > 70
    assert bench.limits("a") != []


def test_what_if_is_not_kept_by_shadows_on_their_way() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(10, a=100, b=100)
    bench.supervisor.functions["b"].deployment.stale = lambda: [SimpleNamespace(device="cpu")]
    (decision,) = bench.controller.what_if(["a.rate=1200"]).plan["a"]
    assert decision.capacity_per_s > 1_200


def test_what_if_changes_nothing() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(10, a=100, b=100)
    before = bench.share("a"), dict(bench.controller.decisions)
    reply = plan_reply(bench.controller.what_if(["a.rate=1200"]))
    planned = {each.name: each for each in reply.functions}
    assert planned["a"].decisions[0].share_percent > planned["a"].share_percent
    assert planned["a"].decisions[0].rate_per_s == 1_200
    assert "within 50 ms" in planned["a"].decisions[0].reason
    assert (bench.share("a"), bench.controller.decisions) == before


def test_a_look_that_fails_is_told_once_and_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, looks, went_on = Bench(spec("a")), [], asyncio.Event()

    def look(now_ns: int) -> None:
        looks.append(now_ns)
        if len(looks) < 4:
            raise ZeroDivisionError("nobody thought of it")
        went_on.set()

    async def scenario() -> None:
        running = asyncio.create_task(bench.controller.run())
        await asyncio.wait_for(went_on.wait(), 10)
        running.cancel()

    monkeypatch.setattr("gslice.daemon.controller.LOOK_PERIOD_S", 0)
    monkeypatch.setattr(bench.controller, "look", look)
    asyncio.run(scenario())
    text = "the controller cannot decide: ZeroDivisionError: nobody thought of it"
    assert bench.supervisor.events == [("daemon", text)]


def test_a_function_that_goes_is_forgotten() -> None:
    bench = Bench(spec("a"), spec("b"))
    bench.run(5, a=100, b=100)
    del bench.supervisor.functions["b"]
    bench.run(2, a=100)
    assert bench.controller.decisions.keys() == {"a"}


@pytest.mark.parametrize("seed", range(3))
def test_a_steady_load_is_left_in_peace(seed: int) -> None:
    bench = Bench(spec("a"), spec("b"))
    generator = np.random.default_rng(seed)
    bench.run(15, a=200, b=400)
    bench.supervisor.events.clear()
    for _ in range(60):
        bench.run(0.5, a=4 * int(generator.poisson(50)), b=4 * int(generator.poisson(100)))
    assert len(bench.supervisor.events) <= 2
