"""What functions take, what is remembered of it, and what is refused because of it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.control.memory import Room, refusal, sizes
from gslice.core.config import load_config
from gslice.core.errors import ResourceExhausted
from gslice.core.types import FunctionSpec, MemoryTaken, ShareBounds, Signature
from gslice.daemon.observations import Observations
from gslice.daemon.store import Store
from gslice.device.nvml import GpuFacts, GpuReading
from gslice.supervise import budget
from gslice.supervise.budget import Need, NodeBudget
from gslice.supervise.node import Node
from gslice.supervise.recall import Recalled, largest, nothing
from tests.unit.gpu_bench import Bench

GIB, MIB = 1 << 30, 1 << 20
SIGNATURE = Signature((), (), rows_max=4)
TAKEN = MemoryTaken(100 * MIB, 20 * MIB, 30 * MIB)


# ---- the arithmetic ------------------------------------------------------------------------------


def test_what_does_not_fit_is_told_with_its_parts() -> None:
    parts = MemoryTaken(1, 2, 3, 400 * MIB, GIB, 0).device_parts
    room = Room("cuda:0", 900 * MIB, 4 * GIB)
    assert refusal(parts, room, "shadow beside the primary") == (
        "needs 1.4 GiB (context 400.0 MiB + weights 1.0 GiB), shadow beside the primary; "
        "cuda:0 has 900.0 MiB free of its limit of 4.0 GiB"
    )
    assert refusal(parts, Room("cuda:0", -GIB), "").endswith("; cuda:0 has 0 B free")
    assert refusal(parts, Room("cuda:0", GIB + 400 * MIB), "") == ""


def test_nothing_needs_nothing() -> None:
    assert sizes(MemoryTaken().host_parts) == "nothing"
    assert refusal(MemoryTaken().host_parts, Room("cpu", 0), "") == ""


def test_sums_and_largest_parts() -> None:
    one, other = MemoryTaken(1, 2, 3, 4, 5, 6), MemoryTaken(6, 5, 4, 3, 2, 1)
    assert one + other == MemoryTaken(7, 7, 7, 7, 7, 7)
    assert largest([one, other]) == MemoryTaken(6, 5, 4, 4, 5, 6)
    assert largest([]) == MemoryTaken()
    assert (one.host_bytes, one.device_bytes) == (6, 15)


# ---- what is remembered --------------------------------------------------------------------------


@pytest.fixture
def observations(tmp_path: Path) -> Iterator[Observations]:
    with Store(tmp_path / "gslice.db") as store:
        yield Observations(store)


def deployed(spec: FunctionSpec, *taken: MemoryTaken) -> Any:
    workers = [SimpleNamespace(memory=memory, weights=None, device="cpu") for memory in taken]
    segment = SimpleNamespace(size_bytes=4096)
    return SimpleNamespace(spec=spec, workers=workers, segment=segment, signature=SIGNATURE)


def test_the_last_load_of_the_same_model_is_remembered(
    tmp_path: Path, observations: Observations
) -> None:
    model = tmp_path / "m.onnx"
    model.write_text("weights")
    spec = FunctionSpec("f", model=str(model))
    assert observations.recall(spec) is None
    observations.note(deployed(spec, MemoryTaken(9)), {}, 1)
    observations.note(deployed(spec, TAKEN, MemoryTaken(1, 1, 40 * MIB)), {"load": 5}, 700_000)
    known = Recalled(MemoryTaken(100 * MIB, 20 * MIB, 40 * MIB), 700_000, SIGNATURE)
    assert observations.recall(spec) == known
    share = dataclasses.replace(spec, share=ShareBounds(10, 10), instances=3, priority="high")
    assert observations.recall(share) == known
    for changed in ({"device": "cuda:0"}, {"engine": "torch"}, {"lanes": 1}, {"batch_max": 8}):
        assert observations.recall(dataclasses.replace(spec, **changed)) is None  # type: ignore[arg-type]
    model.write_text("other weights")
    assert observations.recall(spec) is None


def test_code_that_changed_is_another_model(tmp_path: Path, observations: Observations) -> None:
    code = tmp_path / "user.py"
    code.write_text("class F: ...")
    spec = FunctionSpec("f", engine="python", python="user:F", python_path=str(tmp_path))
    observations.note(deployed(spec, TAKEN), {}, 1)
    assert observations.recall(spec) is not None
    code.write_text("class F:\n    more = 1")
    assert observations.recall(spec) is None


def test_what_another_gslice_observed_is_no_obstacle(tmp_path: Path) -> None:
    spec = FunctionSpec("f", model="/m.onnx")
    with Store(tmp_path / "gslice.db") as store:
        store.observe("f", {"memory_bytes": [1], "ready_us": 1})
        assert Observations(store).recall(spec) is None
        Observations(store).note(deployed(spec, TAKEN), {}, 1)
        (kept,) = (seen for seen in store.observations("f") if "of" in seen)
        store.observe("f", {**kept, "memory": [{"process_bytes": "many"}]})
        assert Observations(store).recall(spec) is None


# ---- what is refused -----------------------------------------------------------------------------


class Made(SimpleNamespace):
    """A function that a test made up; a key, as real ones are."""

    __hash__ = object.__hash__


class Machine:
    """A node's budget over functions whose workers a test makes up."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(tmp_path / "state")})
        self.node = Node.open(config.node, config.devices, lambda *_: None)
        cpu = dataclasses.replace(self.node.device("cpu"), memory_limit_bytes=limit)
        self.node.devices["cpu"] = cpu
        self.functions: Any = {}
        self.recalled: dict[str, Recalled] = {}
        self.dropped: list[tuple[str, str]] = []
        self.budget = NodeBudget(self.node, self.functions, lambda s: self.recalled.get(s.name))
        self.available_bytes = 100 * GIB
        monkeypatch.setattr(budget, "available_bytes", lambda: self.available_bytes)

    def runs(self, name: str, *taken: MemoryTaken) -> list[Any]:
        """Adds a function with workers; they can be changed."""
        deployment = deployed(FunctionSpec(name), *taken)
        self.functions[name] = Made(
            name=name,
            deployments=[deployment],
            spec=deployment.spec,
            program=None,
            kept=SimpleNamespace(warm=[], drop=functools.partial(self._drop, name)),
            residency=SimpleNamespace(used_ms=len(self.functions), evictable=False),
            lock=asyncio.Lock(),
        )
        workers: list[Any] = deployment.workers
        return workers

    def keeps(self, name: str, *taken: MemoryTaken) -> None:
        """A function that runs has a version that is warm beside the one that serves."""
        deployment = deployed(FunctionSpec(name), *taken)
        self.functions[name].deployments.append(deployment)
        self.functions[name].kept.warm.append(deployment)

    async def _drop(self, name: str, deployment: Any, why: str) -> None:
        self.functions[name].kept.warm.remove(deployment)
        self.functions[name].deployments.remove(deployment)
        self.dropped.append((name, why))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    async def made() -> Machine:
        return Machine(tmp_path, monkeypatch, 400 * MIB)

    return asyncio.run(made())


def test_what_runs_and_what_comes_must_fit_the_limit(machine: Machine) -> None:
    machine.runs("a", TAKEN, TAKEN)
    asyncio.run(machine.budget.check(Need("b", "cpu", MemoryTaken(100 * MIB))))
    with pytest.raises(
        ResourceExhausted,
        match=r"function b: needs 150\.0 MiB \(process 100\.0 MiB \+ model 20\.0 MiB \+ workspace "
        r"30\.0 MiB\), beside what serves; cpu has 100\.0 MiB free of its limit of 400\.0 MiB",
    ):
        asyncio.run(machine.budget.check(Need("b", "cpu", TAKEN, "beside what serves")))


def test_the_node_s_own_memory_counts_for_all(machine: Machine) -> None:
    machine.available_bytes = 50 * MIB
    with pytest.raises(ResourceExhausted, match=r"; the node has 50\.0 MiB free"):
        asyncio.run(machine.budget.check(Need("b", "cpu", TAKEN)))


def test_all_instances_are_needed_together(machine: Machine) -> None:
    spec = FunctionSpec("b", instances=3)
    assert machine.budget.needed(spec) == []
    asyncio.run(machine.budget.check(None))
    machine.recalled["b"] = Recalled(TAKEN, 1, SIGNATURE)
    assert machine.budget.needed(spec, "how") == [Need("b", "cpu", TAKEN + TAKEN + TAKEN, "how")]


def test_each_device_of_a_function_needs_memory_of_its_own(machine: Machine) -> None:
    cpu = machine.node.devices["cpu"]
    machine.node.devices["more"] = dataclasses.replace(cpu, memory_limit_bytes=100 * MIB)
    machine.recalled["b"] = Recalled(TAKEN, 1, SIGNATURE)
    spec = FunctionSpec("b", device="cpu", also_on=("more",))
    needs = machine.budget.needed(spec)
    assert needs == [Need("b", "cpu", TAKEN), Need("b", "more", TAKEN)]

    async def scenario() -> None:
        with pytest.raises(ResourceExhausted, match=r"more has 100\.0 MiB free of its limit"):
            async with machine.budget.promised(needs):
                raise AssertionError("it does not fit")
        await machine.budget.check(Need("c", "cpu", MemoryTaken(400 * MIB)))  # nothing is kept
        machine.runs("a", TAKEN)[0].device = "more"
        await machine.budget.check(Need("c", "cpu", MemoryTaken(400 * MIB)))

    asyncio.run(scenario())


def test_what_is_promised_is_not_promised_again(machine: Machine) -> None:
    workers = machine.runs("a")

    async def scenario() -> None:
        async with machine.budget.promised([Need("a", "cpu", TAKEN)]):
            await machine.budget.check(Need("b", "cpu", TAKEN))
            with pytest.raises(ResourceExhausted, match=r"cpu has 250\.0 MiB free"):
                await machine.budget.check(Need("b", "cpu", TAKEN + TAKEN))
            workers.append(
                SimpleNamespace(memory=MemoryTaken(100 * MIB), weights=None, device="cpu")
            )  # half of the way
            with pytest.raises(ResourceExhausted, match=r"cpu has 250\.0 MiB free"):
                await machine.budget.check(Need("b", "cpu", TAKEN + TAKEN))
        await machine.budget.check(Need("b", "cpu", TAKEN + TAKEN))  # it took less in the end

    asyncio.run(scenario())


def test_what_is_measured_takes_what_it_was_promised(machine: Machine) -> None:
    machine.runs("a", TAKEN)

    async def scenario() -> None:
        async with machine.budget.promised([Need("a", "cpu", TAKEN)]):
            await machine.budget.check(Need("b", "cpu", MemoryTaken(100 * MIB)))
            stand: Any = Made(memory=TAKEN, weights=None, device="cpu")
            machine.node.stands[stand] = "a"
            await machine.budget.check(Need("b", "cpu", MemoryTaken(100 * MIB)))
            with pytest.raises(ResourceExhausted, match=r"cpu has 100\.0 MiB free"):
                await machine.budget.check(Need("b", "cpu", MemoryTaken(101 * MIB)))
            del machine.node.stands[stand]

    asyncio.run(scenario())


def test_kept_versions_go_when_their_memory_is_needed(machine: Machine) -> None:
    machine.runs("a", TAKEN)
    machine.keeps("a", TAKEN)
    machine.runs("b")
    machine.keeps("b", MemoryTaken(50 * MIB))
    changing = machine.functions["a"].lock

    async def scenario() -> None:
        too_much = Need("b", "cpu", MemoryTaken(260 * MIB))
        with pytest.raises(ResourceExhausted):  # nothing is ended for nothing
            async with machine.budget.promised([too_much]):
                raise AssertionError("it does not fit")
        need = Need("b", "cpu", MemoryTaken(240 * MIB))
        await machine.budget.check(need)  # a plan counts on them, and ends none
        assert machine.dropped == []
        async with changing:  # its lock is held: it may be about to serve what it kept
            with pytest.raises(ResourceExhausted):
                await machine.budget.check(need)
        async with machine.budget.promised([Need("b", "cpu", MemoryTaken(100 * MIB))]):
            assert machine.dropped == [("a", "its memory went to b")]
        async with machine.budget.promised([need]), machine.functions["b"].lock:
            assert machine.dropped[1:] == [("b", "its memory went to b")]

    asyncio.run(scenario())


def test_a_load_that_is_refused_was_promised_nothing(machine: Machine) -> None:
    async def scenario() -> None:
        too_much = Need("a", "cpu", MemoryTaken(500 * MIB))
        with pytest.raises(ResourceExhausted):
            async with machine.budget.promised([too_much]):
                raise AssertionError("it does not fit")
        await machine.budget.check(Need("b", "cpu", MemoryTaken(400 * MIB)))

    asyncio.run(scenario())


def test_nobody_knows_what_nobody_loaded(machine: Machine) -> None:
    assert nothing(FunctionSpec("f")) is None

    async def scenario() -> None:
        async with machine.budget.promised([]):
            await machine.budget.check(Need("b", "cpu", MemoryTaken(400 * MIB)))

    asyncio.run(scenario())


def test_what_a_program_has_not_taken_yet_is_not_free_on_its_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_to_do() -> None:
        """It is ready, and was read."""

    facts, free = GpuFacts(memory_bytes=80 * GIB), 79 * GIB
    gpu: Any = SimpleNamespace(
        facts=facts, memory_free_bytes=free, ready=nothing_to_do, read=nothing_to_do
    )
    cpu = dataclasses.replace(machine.node.devices["cpu"], memory_limit_bytes=0)
    monkeypatch.setitem(machine.node.devices, "cuda:0", cpu)
    monkeypatch.setitem(machine.node.gpus, "cuda:0", gpu)
    machine.runs("llm")
    machine.functions["llm"].program = SimpleNamespace(
        note=SimpleNamespace(spec=FunctionSpec("llm", device="cuda:0")),
        memory=MemoryTaken(weights_bytes=20 * GIB),
        resident_bytes=GIB,
    )

    def check(gib: int) -> None:
        need = Need("b", "cuda:0", MemoryTaken(weights_bytes=gib * GIB))
        asyncio.run(machine.budget.check(need))

    check(60)
    with pytest.raises(ResourceExhausted, match=r"cuda:0 has 60\.0 GiB free"):
        check(61)


# ---- a GPU ---------------------------------------------------------------------------------------


class ReadNvml:
    """An NVML that reads what the test says."""

    def __init__(self, *used: int) -> None:
        self._used = iter(used)

    def reading(self, uuid: str) -> GpuReading:
        return GpuReading(memory_used_bytes=next(self._used))


def test_what_goes_besides_the_weights_is_the_context(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.gpu.facts = GpuFacts(memory_bytes=80 * GIB)
        bench.gpu._nvml = ReadNvml(GIB, 4 * GIB)
        worker: Any = bench.worker(7)
        async with bench.gpu.measured_load(worker):
            assert bench.gpu.measuring.locked()
            worker.memory = MemoryTaken(weights_bytes=2 * GIB)
        assert worker.memory == MemoryTaken(context_bytes=GIB, weights_bytes=2 * GIB)
        assert bench.gpu.memory_free_bytes == 76 * GIB

    on_gpu(test)


def test_without_nvml_the_context_is_not_known(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker: Any = bench.worker(7)
        async with bench.gpu.measured_load(worker):
            worker.memory = MemoryTaken(weights_bytes=2 * GIB)
        assert worker.memory.context_bytes == 0
        assert bench.gpu.memory_free_bytes is None

    on_gpu(test)
