"""Functions that may run on several devices: where they are put, and how they change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import DeviceConfig
from gslice.core.errors import FailedPrecondition, LoadFailed
from gslice.core.types import FunctionSpec, ReplicaBounds, ShareBounds
from gslice.supervise import loading
from gslice.supervise.function import Function
from gslice.supervise.placing import Placing
from gslice.supervise.supervisor import Supervisor
from gslice.supervise.versions import AsDeclared, Resolved
from tests.unit.function_bench import SPEC, Broken, Running, add, make_supervisor, serves, unheard

AUTO = replace(SPEC, device="one", devices=("one", "other"), share=ShareBounds())


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    made = make_supervisor(tmp_path, [])
    made.node.devices = {name: DeviceConfig(cpus=(0,)) for name in ("one", "other")}
    return made


def named(name: str, device: str = "one") -> FunctionSpec:
    return replace(AUTO, name=name, device=device)


def running(supervisor: Supervisor, spec: FunctionSpec) -> tuple[Function, Any]:
    function = add(supervisor, spec)
    return function, serves(function, Running(spec, ready=1))


# ---- moves ---------------------------------------------------------------------------------------


def test_a_move_leaves_shares_as_they_are_until_the_old_one_has_gone(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        mover, old = running(supervisor, named("a"))
        stays, _ = running(supervisor, named("b"))
        await supervisor.sharing.share_out()
        assert (old.shares, stays.share_granted_percent) == ([50], 50)
        monkeypatch.setattr(mover, "_make", lambda spec: Running(spec))
        during: list[tuple[str, float]] = []

        def watch(stage: str, detail: str) -> None:
            if stage in ("swap", "drain"):
                during.append((stage, stays.share_granted_percent))
                old.may_start.set()  # it has answered what it had

        await supervisor.move("a", ["other"], watch)
        assert during == [("swap", 50), ("drain", 50)]
        assert old.shares == [50], "what goes keeps its share of where it is"
        assert (mover.spec.device, mover.share_granted_percent) == ("other", 100)
        assert stays.share_granted_percent == 100
        assert mover.deployment is not old
        assert mover.runs(AUTO), "where it runs is nobody's wish"

    asyncio.run(scenario())


def test_nobody_grows_into_what_a_function_that_moves_still_uses(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        mover, old = running(supervisor, replace(named("a"), share=ShareBounds(60.0, 60.0)))
        others = [running(supervisor, named(name))[0] for name in "bc"]
        await supervisor.sharing.share_out()
        monkeypatch.setattr(mover, "_make", lambda spec: Running(spec))
        during: dict[str, list[float]] = {}

        def watch(stage: str, detail: str) -> None:
            during[stage] = [other.share_granted_percent for other in others]
            if stage == "drain":
                old.may_start.set()  # it has answered what it had

        await supervisor.move("a", ["other"], watch)
        assert (during["swap"], during["drain"]) == ([20, 20], [20, 20])
        assert [other.share_granted_percent for other in others] == [50, 50]

    asyncio.run(scenario())


def test_a_move_that_fails_changes_nothing(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        mover, old = running(supervisor, named("a"))
        stays, _ = running(supervisor, named("b"))
        await supervisor.sharing.share_out()
        monkeypatch.setattr(mover, "_make", lambda spec: Broken(spec))
        with pytest.raises(LoadFailed):
            await supervisor.move("a", ["other"], unheard)
        assert mover.spec.device == "one"
        assert (mover.deployment, mover.state) == (old, "READY")
        assert (mover.share_granted_percent, stays.share_granted_percent) == (50, 50)

    asyncio.run(scenario())


def test_what_is_pinned_is_not_moved(supervisor: Supervisor) -> None:
    running(supervisor, replace(named("a"), devices=()))
    with pytest.raises(FailedPrecondition, match="function a is pinned to one"):
        asyncio.run(supervisor.move("a", ["other"], unheard))


def test_a_move_brings_no_other_model_along(supervisor: Supervisor) -> None:
    class Edited(AsDeclared):
        async def resolve(self, spec: FunctionSpec, is_warm: Any, fetch: Any = None) -> Resolved:
            return Resolved(replace(spec, version="2"))

    supervisor._loading._numbers = Edited()
    function, old = running(supervisor, named("a"))
    with pytest.raises(FailedPrecondition, match="files of its model have changed"):
        asyncio.run(supervisor.move("a", ["other"], unheard))
    assert (function.spec.device, function.deployment) == ("one", old)


# ---- where functions are put ---------------------------------------------------------------------


def placed(supervisor: Supervisor, spec: FunctionSpec, last: str = "") -> str:
    """The device of a function that is about to be loaded for the first time."""
    placing = Placing(supervisor.node, supervisor.functions, lambda name: (last,))
    return placing.place(supervisor._new_function(spec), spec).device


def test_functions_are_spread(supervisor: Supervisor) -> None:
    assert placed(supervisor, named("a")) == "one"
    add(supervisor, named("b"))
    assert placed(supervisor, named("a")) == "other"
    supervisor.node.config = replace(supervisor.node.config, packing="fewest")
    assert placed(supervisor, named("a")) == "one"


def test_what_served_before_comes_back_to_where_it_was(supervisor: Supervisor) -> None:
    add(supervisor, named("b", "other"))
    assert placed(supervisor, named("a"), last="other") == "other"
    assert placed(supervisor, named("a"), last="gone") == "one"
    supervisor.node.drained.add("other")
    assert placed(supervisor, named("a"), last="other") == "one"


def test_what_runs_stays_unless_its_device_is_drained(supervisor: Supervisor) -> None:
    function, _ = running(supervisor, named("a", "other"))
    place = supervisor.placing.place
    assert place(function, AUTO).device == "other"
    assert place(function, replace(AUTO, devices=())).device == "one"
    supervisor.node.drained.add("other")
    assert place(function, AUTO).device == "one"


def test_nothing_new_is_placed_where_all_is_drained(supervisor: Supervisor) -> None:
    supervisor.node.drained |= {"one", "other"}
    with pytest.raises(FailedPrecondition, match="nothing new is placed there: drained"):
        placed(supervisor, named("a"))
    assert placed(supervisor, replace(named("a"), devices=())) == "one"


def test_a_gpu_is_better_as_long_as_it_can_be_used(supervisor: Supervisor) -> None:
    node = supervisor.node
    node.devices = {"cuda:0": DeviceConfig(kind="cuda"), "cpu": DeviceConfig(cpus=(0,))}
    spec = replace(AUTO, device="cuda:0", devices=("cuda:0", "cpu"))
    add(supervisor, replace(spec, name="b"))
    assert placed(supervisor, spec) == "cuda:0", "also where the CPU has more to give"
    node.gpus = {"cuda:0": type("Lost", (), {"problem": "it is lost"})()}
    assert placed(supervisor, spec) == "cpu"
    function = add(supervisor, spec)
    assert supervisor.placing.elsewhere(function) == ("cpu",)
    node.drained.add("cpu")
    assert supervisor.placing.elsewhere(function) == ()
    assert placed(supervisor, spec) == "cuda:0", "a load tries it again"


def test_what_fails_after_a_replica_came_leaves_the_function_where_it_runs(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spread(function: Function, *_: Any) -> None:
        assert function.deployment is not None
        function.deployment.spec = function.deployment.spec.placed_on(function.spec.placed)

    async def fails(stage: Any) -> None:
        raise LoadFailed("no shadow")

    async def scenario() -> None:
        function, _ = running(supervisor, named("a"))
        monkeypatch.setattr(loading, "spread", spread)
        monkeypatch.setattr(function.resizing, "carry_out", fails)
        with pytest.raises(LoadFailed):
            await supervisor.load(replace(named("a"), replicas=ReplicaBounds(2, 2)), unheard)
        assert function.spec.placed == ("one", "other")
        assert function.spec.replicas == ReplicaBounds()

    asyncio.run(scenario())


# ---- replicas ------------------------------------------------------------------------------------

FOUR = ("cpu:0-1", "cpu:2-3", "cpu:4-5", "cpu:6")


@pytest.fixture
def four(supervisor: Supervisor) -> Supervisor:
    """A node of three devices that are alike, and a smaller one."""
    cores = ((0, 1), (2, 3), (4, 5), (6,))
    supervisor.node.devices = {
        name: DeviceConfig(cpus=cpus) for name, cpus in zip(FOUR, cores, strict=True)
    }
    return supervisor


def replicated(low: int, high: int = 0, name: str = "a") -> FunctionSpec:
    bounds = ReplicaBounds(low, high or low)
    return replace(AUTO, name=name, device=FOUR[0], devices=FOUR, replicas=bounds)


def places(supervisor: Supervisor, spec: FunctionSpec, *last: str) -> tuple[str, ...]:
    placing = Placing(supervisor.node, supervisor.functions, lambda name: last)
    return placing.place(supervisor._new_function(spec), spec).placed


def test_replicas_are_put_on_devices_that_are_alike(four: Supervisor) -> None:
    assert places(four, replicated(2)) == FOUR[:2]
    add(four, replicated(1, name="b"))
    assert places(four, replicated(2)) == FOUR[1:3], "where most is free"
    assert set(places(four, replicated(4))) == set(FOUR[:3]), "as many as there are"
    assert len(places(four, replicated(1, 4))) == 1, "no more than it must"
    four.node.drained |= {FOUR[0], FOUR[1]}
    assert places(four, replicated(3)) == (FOUR[2],)


def test_replicas_come_back_to_where_they_were(four: Supervisor) -> None:
    assert places(four, replicated(2), FOUR[2], FOUR[0]) == (FOUR[2], FOUR[0])
    assert places(four, replicated(1, 4), FOUR[2], FOUR[0]) == (FOUR[2], FOUR[0])
    assert places(four, replicated(1), FOUR[2], FOUR[0]) == (FOUR[2],), "fewer are wanted by now"
    four.node.drained.add(FOUR[2])
    assert places(four, replicated(2), FOUR[2], FOUR[0]) == (FOUR[0], FOUR[1])


def test_a_replica_that_cannot_stay_is_put_elsewhere(four: Supervisor) -> None:
    function = add(four, replicated(2).placed_on((FOUR[0], FOUR[1])))
    elsewhere = four.placing.elsewhere
    assert elsewhere(function) == (FOUR[0], FOUR[1])
    four.node.drained.add(FOUR[0])
    assert elsewhere(function) == (FOUR[1], FOUR[2])
    four.node.drained.add(FOUR[2])
    assert elsewhere(function) == (FOUR[1],), "one that is smaller is no place for a replica"
    four.node.drained.add(FOUR[1])
    assert elsewhere(function) == (FOUR[3],), "the last one goes wherever it can"
    four.node.drained.add(FOUR[3])
    assert elsewhere(function) == ()


def test_a_function_that_is_taken_over_is_on_all_its_devices(four: Supervisor) -> None:
    placing = Placing(four.node, four.functions, lambda name: (FOUR[1], "gone", FOUR[0]))
    assert placing.adopted(replicated(2).placed_on((FOUR[0],))) == [FOUR[1], FOUR[0]]
    assert placing.adopted(replicated(2).placed_on((FOUR[2],))) == (FOUR[2],), "it has moved since"
