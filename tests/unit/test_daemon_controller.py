"""The control loop: what it reads, what it orders, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gslice.control.arrivals import SECOND_NS
from gslice.control.demand import Policy
from gslice.control.explain import predicted_p99_us, reason
from gslice.control.latency import LatencyModel, Measurement
from gslice.control.plan import Planner
from gslice.core.config import DeviceConfig
from gslice.core.types import FunctionSpec, ShareBounds, Signature
from gslice.daemon.controller import Controller
from gslice.daemon.plan_api import plan_reply

MODEL = LatencyModel.fit(
    [
        Measurement(rows, share, median := 500 + 500 * rows * 100 / share, 1.1 * median, 50)
        for rows in (1, 2, 4)
        for share in (25.0, 50.0, 100.0)
    ]
)


class FakeSegment:
    """Counts what it is told to, and keeps its limits."""

    generation = 1

    def __init__(self) -> None:
        self.arrived = 0
        self.limits: list[tuple[int, int, int]] = []

    def demand(self) -> dict[str, Any]:
        zeros = dict.fromkeys(("answered", "rows", "executions", "compute_busy_ns"), 0)
        return {**zeros, "arrived": self.arrived, "batch_rows": np.zeros(129, np.uint64)}

    def set_limits(self, rows: int, delay_ns: int, admit_within_ns: int = 0) -> None:
        self.limits.append((rows, delay_ns, admit_within_ns))


class FakeSupervisor:
    """Functions that do as they are told at once."""

    def __init__(self, *specs: FunctionSpec, devices: tuple[str, ...] = ("cpu",)) -> None:
        self.drained: set[str] = set()
        self.in_turns: set[str] = set()
        self.events: list[tuple[str, str]] = []
        self.functions = {spec.name: self._function(spec, len(specs)) for spec in specs}
        self.node = SimpleNamespace(
            devices={device: DeviceConfig() for device in devices},
            usable=lambda device: device not in self.drained,
            event=lambda subject, kind, text: self.events.append((subject, text)),
        )

    def _function(self, spec: FunctionSpec, count: int) -> Any:
        deployment = SimpleNamespace(
            spec=spec,
            segment=FakeSegment(),
            signature=Signature((), (), rows_max=4),
            share_effective_percent=100 / count,
            limiter="cgroup",
            stale=list,
        )
        share = 100 / count
        return SimpleNamespace(
            spec=spec,
            deployment=deployment,
            admitted=True,
            serving=True,
            share_granted_percent=share,
        )

    async def follow(self, shares: dict[str, float], in_turns: Collection[str] = ()) -> None:
        self.in_turns = set(in_turns)
        for name, share in shares.items():
            self.functions[name].share_granted_percent = share


class FakeMover:
    """Moves nothing; knows what was proposed, and who moved just now."""

    def __init__(self) -> None:
        self.proposed: list[tuple[str, str]] = []
        self.reasons: set[str] = set()
        self.moved: set[str] = set()

    def rested(self, name: str) -> bool:
        return name not in self.moved

    def propose(self, name: str, devices: Sequence[str], why: str) -> None:
        self.proposed.append((name, ", ".join(devices)))
        self.reasons.add(why)


class Bench:
    """A controller over functions with a traffic each.

    Args:
        specs: Of the functions.
        devices: The node's.
        measured: Those on which functions were measured, or on others like them; None: all.
    """

    def __init__(
        self,
        *specs: FunctionSpec,
        devices: tuple[str, ...] = ("cpu",),
        measured: tuple[str, ...] | None = None,
    ) -> None:
        known = devices if measured is None else measured
        self.supervisor = FakeSupervisor(*specs, devices=devices)
        self.mover = FakeMover()
        self.controller = Controller(
            self.supervisor,  # type: ignore[arg-type]
            lambda spec, device: MODEL if device in known else None,
            Planner(Policy(turns=True)),
            self.mover,
        )
        self.now_ns = 0

    def run(self, seconds: float, **rates: int) -> None:
        for tick in range(round(seconds * 4)):
            self.now_ns += SECOND_NS // 4
            for name, rate in rates.items():
                self.supervisor.functions[name].deployment.segment.arrived += rate // 4
            self.controller.look(self.now_ns)
            if tick % 2:
                asyncio.run(self.controller.decide(self.now_ns))

    def share(self, name: str) -> float:
        return float(self.supervisor.functions[name].share_granted_percent)

    def limits(self, name: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = self.supervisor.functions[
            name
        ].deployment.segment.limits
        return found


def spec(name: str, slo_ms: int = 50, **settings: Any) -> FunctionSpec:
    return FunctionSpec(name, slo_p99_us=slo_ms * 1000, **settings)


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


# ---- several devices -----------------------------------------------------------------------------

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

    bench.supervisor.follow = refused  # type: ignore[method-assign]
    bench.run(10, a=1_200, b=100)
    told = [text for subject, text in bench.supervisor.events if subject == "a"]
    bench.supervisor.events.clear()
    bench.run(10, a=1_200, b=100)
    assert told
    assert bench.supervisor.events == []
