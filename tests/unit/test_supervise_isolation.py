"""Functions with a device to themselves: who is refused, who goes where, whom a fault reaches."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import DeviceConfig
from gslice.core.errors import FailedPrecondition
from gslice.core.types import FunctionSpec, ProgramSpec, ShareBounds
from gslice.device.nvml import GpuFacts
from gslice.supervise.clients import Burial
from gslice.supervise.function import Function
from gslice.supervise.isolation import owner_of
from gslice.supervise.supervisor import Supervisor
from tests.unit.function_bench import SPEC, Running, add, make_supervisor, serves, unheard
from tests.unit.gpu_bench import Bench, FakeProgram

FREE = replace(SPEC, device="one", devices=("one", "other"), share=ShareBounds())
PINNED = replace(FREE, devices=())
ALONE = replace(FREE, name="alone", isolation="exclusive")


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    made = make_supervisor(tmp_path, [])
    made.node.devices = {name: DeviceConfig(cpus=(0,)) for name in ("one", "other")}
    return made


def running(supervisor: Supervisor, spec: FunctionSpec) -> tuple[Function, Any]:
    function = add(supervisor, spec)
    return function, serves(function, Running(spec, ready=1))


def admit(supervisor: Supervisor, spec: FunctionSpec) -> FunctionSpec:
    """Places and admits a function that is about to be loaded for the first time."""
    function = supervisor._new_function(spec)
    placed = supervisor.placing.place(function, spec)
    supervisor.sharing.admit(function, placed)
    supervisor.functions[spec.name] = function
    return placed


# ---- who may be where ----------------------------------------------------------------------------


def test_others_on_the_device_are_named(supervisor: Supervisor) -> None:
    add(supervisor, replace(PINNED, name="b"))
    add(supervisor, replace(PINNED, name="c"))
    with pytest.raises(FailedPrecondition) as raised:
        admit(supervisor, replace(ALONE, devices=()))
    assert str(raised.value) == (
        "function alone: it wants a device to itself (isolation: exclusive), and others are on"
        " one (b, c) (unload or move those that are there, or give it another device)"
    )


def test_nobody_joins_it(supervisor: Supervisor) -> None:
    admit(supervisor, replace(ALONE, devices=()))
    with pytest.raises(FailedPrecondition, match="exclusive functions have to themselves what it"):
        admit(supervisor, PINNED)
    assert admit(supervisor, FREE).device == "other", "who has a choice goes elsewhere"
    assert owner_of(supervisor.functions.values(), "one") == "alone"
    assert owner_of(supervisor.functions.values(), "other") == ""


def test_with_a_choice_it_takes_an_empty_device(supervisor: Supervisor) -> None:
    add(supervisor, PINNED)
    assert admit(supervisor, ALONE).device == "other"
    with pytest.raises(FailedPrecondition, match=r"others are on one \(a\), other \(alone\)"):
        admit(supervisor, replace(ALONE, name="third"))


def test_what_has_failed_is_in_nobody_s_way(supervisor: Supervisor) -> None:
    function, deployment = running(supervisor, PINNED)
    function.admitted = False
    with pytest.raises(FailedPrecondition):
        admit(supervisor, replace(ALONE, devices=()))
    deployment.workers.clear()
    assert admit(supervisor, replace(ALONE, devices=())).device == "one"


def test_it_keeps_its_device_until_the_last_of_it_has_gone(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        mover, old = running(supervisor, ALONE)
        newcomer = supervisor._new_function(PINNED)
        monkeypatch.setattr(mover, "_make", lambda spec: Running(spec))
        refused: list[str] = []

        def watch(stage: str, detail: str) -> None:
            if stage == "drain":
                with pytest.raises(FailedPrecondition):
                    supervisor.sharing.admit(newcomer, PINNED)
                refused.append(stage)
                old.may_start.set()  # it has answered what it had

        await supervisor.move("alone", ["other"], watch)
        assert refused == ["drain"]
        supervisor.sharing.admit(newcomer, PINNED)

    asyncio.run(scenario())


def test_it_is_not_moved_to_where_others_are(supervisor: Supervisor) -> None:
    function, deployment = running(supervisor, ALONE)
    add(supervisor, replace(PINNED, device="other"))
    with pytest.raises(FailedPrecondition, match=r"others are on other \(a\)"):
        asyncio.run(supervisor.move("alone", ["other"], unheard))
    assert (function.spec.device, function.deployment) == ("one", deployment)


def test_whoever_must_leave_a_device_goes_to_no_other_s_own(supervisor: Supervisor) -> None:
    add(supervisor, replace(ALONE, device="other", devices=()))
    function, _ = running(supervisor, FREE)
    supervisor.node.drained.add("one")
    assert supervisor.placing.elsewhere(function) == ()
    supervisor.functions.pop("alone")
    assert supervisor.placing.elsewhere(function) == ("other",)


def test_it_has_all_of_the_device_whatever_the_controller_says(supervisor: Supervisor) -> None:
    async def scenario() -> None:
        function, _ = running(supervisor, ALONE)
        await supervisor.sharing.follow({"alone": 20.0})
        await supervisor.sharing.share_out()
        assert function.share_granted_percent == 100.0
        with pytest.raises(FailedPrecondition, match="has its devices to itself, and all of their"):
            await supervisor.plan_resize("alone", ShareBounds(40.0, 40.0))

    asyncio.run(scenario())


def test_a_share_limit_of_a_gpu_that_nothing_would_keep(supervisor: Supervisor) -> None:
    limited = DeviceConfig("cuda", "mps", share_limit_percent=80.0)
    supervisor.node.devices["gpu"] = limited
    on_gpu = replace(ALONE, device="gpu", devices=())
    with pytest.raises(FailedPrecondition, match="nothing keeps the share limit of gpu, 80%"):
        admit(supervisor, on_gpu)
    supervisor.node.devices["gpu"] = replace(limited, share_limit_percent=100.0)
    assert admit(supervisor, on_gpu).device == "gpu"


# ---- whom a fault reaches ------------------------------------------------------------------------


def test_on_a_gpu_it_runs_without_mps(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        found = bench.gpu.environment(ALONE, 100.0)
        assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
        assert {k: v for k, v in found.items() if "MPS" in k} == {
            "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"
        }
        worker = bench.worker(7, alone=True, share_percent=100.0, effective_percent=100.0)
        await bench.gpu.check_client(worker, "alone")
        bench.gpu.check_share(worker, "alone")

    on_gpu(test)


def test_a_gpu_that_takes_one_context_has_no_room_for_its_shadow(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.gpu.facts = GpuFacts(compute_mode="exclusive process")
        with pytest.raises(FailedPrecondition, match="cuda:0 is in compute mode exclusive process"):
            bench.gpu.environment(ALONE, 100.0)
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in bench.gpu.environment(PINNED, 100.0)

    on_gpu(test)


def test_its_death_is_its_own(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        alone, other = bench.worker(1, alone=True), bench.worker(2)
        bench.mps.fault = True  # of others: nothing that it could have to do with
        assert await bench.gpu.clients.bury(alone, "exited with code 75") == Burial()
        assert not other.death.done()
        assert (bench.gpu.clients.faults, bench.mps.ended) == (0, [])
        assert alone not in bench.gpu.clients.workers

    on_gpu(test)


def test_a_fault_of_others_does_not_reach_it(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        alone, other = bench.worker(1, alone=True), bench.worker(2)
        program = FunctionSpec("llm", isolation="exclusive", program=ProgramSpec(("vllm",)))
        guest = FakeProgram(program)
        bench.gpu.clients.programs.add(guest)
        bench.mps.fault = True
        await bench.gpu.clients.look()
        assert other.death.done()
        assert not alone.death.done()
        assert not guest.death.done()
        assert any("reached every function on it (f2)" in event for event in bench.events)
        await bench.gpu.clients.end(alone)
        assert bench.mps.ended == []

    on_gpu(test)


def test_an_adopted_one_need_not_be_in_mps(tmp_path: Path) -> None:
    async def test() -> None:
        bench = Bench(tmp_path)
        alone, outside = bench.worker(1, alone=True), bench.worker(2)
        bench.mps.pids = set()
        await bench.gpu.ready()
        assert outside.death.done()
        assert not alone.death.done()

    asyncio.run(test())
