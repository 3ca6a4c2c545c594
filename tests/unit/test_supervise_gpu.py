"""A GPU as the daemon sees it: what workers are given, what it needs to start, what is proven."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gslice.core.errors import (
    FailedPrecondition,
    GsliceError,
    LoadFailed,
    ResourceExhausted,
    Unavailable,
)
from gslice.core.types import FunctionSpec, MemoryTaken, ProgramSpec
from gslice.device.nvml import GpuFacts, GpuReading
from tests.unit.gpu_bench import Bench, FakeProgram, FakeWorker

SPEC = FunctionSpec("f")


class FakeNvml:
    """Answers, or says what a test tells it to."""

    error: GsliceError | None = None

    def reading(self, uuid: str) -> GpuReading:
        if self.error is not None:
            raise self.error
        return GpuReading()


# ---- what a worker is given ----------------------------------------------------------------------


def test_a_worker_s_environment_binds_it_to_gpu_and_share(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        found = bench.gpu.environment(SPEC, 25.0)
        assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
        assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
        assert found["CUDA_MPS_PIPE_DIRECTORY"] == "/p"
        assert vars(bench.gpu.grant()) == {"uuid": "GPU-1", "sms": 132}

    on_gpu(test)


def test_without_a_limiter_workers_stay_out_of_mps(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        found = bench.gpu.environment(SPEC, 25.0)
        assert {k: v for k, v in found.items() if "MPS" in k} == {
            "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"
        }
        assert bench.gpu.limiter_of(SPEC) == "none"
        assert bench.mps.opened == 0
        worker = FakeWorker(7, 25.0, 100.0)
        await bench.gpu.check_client(worker, "f")
        bench.gpu.check_share(worker, "f")

    on_gpu(test, limiter="none")


def test_what_others_took_is_not_given_again(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.worker(1).memory = MemoryTaken(weights_bytes=3 << 30)
        found = bench.gpu.environment(SPEC, 10.0)
        assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1024M"
        bench.worker(2).memory = MemoryTaken(context_bytes=1 << 30)
        with pytest.raises(ResourceExhausted, match="cuda:0: its memory limit is used up"):
            bench.gpu.environment(SPEC, 10.0)

    on_gpu(test, memory_limit_bytes=4 << 30)


def test_a_program_gets_what_it_was_promised(on_gpu) -> None:
    promised = FunctionSpec("llm", program=ProgramSpec(("vllm",), memory_bytes=3 << 30))

    async def test(bench: Bench) -> None:
        found = bench.gpu.environment(promised, 30.0)
        assert found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
        assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
        assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=3072M"
        bench.gpu.clients.programs.add(FakeProgram(promised))
        left = bench.gpu.environment(SPEC, 10.0)  # what others get is what it leaves
        assert left["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1024M"

    on_gpu(test, memory_limit_bytes=4 << 30)


def test_a_program_outside_mps_is_found(on_gpu) -> None:
    async def shared(bench: Bench) -> None:
        bench.mps.pids = {7}
        assert not await bench.gpu.misses({6, 7})
        assert await bench.gpu.misses({6})
        await bench.gpu.clients.take_out({6, 7})
        assert bench.mps.ended == [7]
        bench.mps.owned = False  # an operator's may count in another namespace
        assert not await bench.gpu.misses({6})

    async def alone(bench: Bench) -> None:
        bench.mps.pids = {7}
        assert not await bench.gpu.misses({6})
        await bench.gpu.clients.take_out({7})
        assert bench.mps.ended == []

    on_gpu(shared)
    on_gpu(alone, limiter="none")


def test_a_fault_ends_programs_too(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        program = FakeProgram(FunctionSpec("llm", program=ProgramSpec(("vllm",))))
        bench.gpu.clients.programs.add(program)
        bench.mps.fault = True
        await bench.gpu.clients.look()
        assert program.death.result() == "killed by SIGKILL"
        assert any("reached every function on it (llm)" in event for event in bench.events)

    on_gpu(test)


def test_cores_near_the_gpu_unless_others_are_named(on_gpu) -> None:
    async def near(bench: Bench) -> None:
        bench.gpu.facts = GpuFacts(cpus=(4, 5))
        assert bench.gpu.cpus() == [4, 5]

    async def named(bench: Bench) -> None:
        bench.gpu.facts = GpuFacts(cpus=(4, 5))
        assert bench.gpu.cpus() == [0]

    on_gpu(near)
    on_gpu(named, cpus=(0,))


def test_shares_that_come_to_the_same_sms(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        assert bench.gpu.same_share(25.0, 25.5)
        assert not bench.gpu.same_share(25.0, 26.0)

    on_gpu(test)


# ---- what keeps it from starting -----------------------------------------------------------------


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    async def test() -> None:
        bench = Bench(tmp_path, gpu="cuda:3")
        with pytest.raises(FailedPrecondition, match="there is no GPU cuda:3"):
            await bench.gpu.ready()
        assert "there is no GPU cuda:3" in bench.gpu.problem

    asyncio.run(test())


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        bench = Bench(tmp_path)
        bench.mps.refusals = [FailedPrecondition("MPS does not start: no")]
        with pytest.raises(FailedPrecondition, match="does not start: no"):
            await bench.gpu.ready()
        await bench.gpu.ready()
        assert bench.gpu.problem == ""
        assert bench.mps.opened == 2
        await bench.gpu.ready()
        assert bench.mps.opened == 2

    asyncio.run(test())


def test_a_gpu_that_is_lost_and_comes_back(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        gpu, nvml = bench.gpu, FakeNvml()
        gpu._nvml = nvml
        nvml.error = Unavailable("the GPU is lost: it fell off")
        await gpu.read()
        await gpu.read()
        assert gpu.problem == "the GPU is lost: it fell off"
        assert not gpu.usable
        nvml.error = None
        await gpu.read()
        assert (gpu.problem, gpu.usable) == ("", True)
        nvml.error = FailedPrecondition("NVML does not know it")
        await gpu.read()
        assert gpu.problem == "", "what is not watched may be well"
        assert bench.events[-3:] == [
            "cuda:0: cannot be used: the GPU is lost: it fell off",
            "cuda:0: is back",
            "cuda:0: is not watched any more: NVML does not know it",
        ]

    on_gpu(test)


def test_without_programs_auto_means_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gslice.device.mps.find_program", lambda name, library: "")

    async def test() -> None:
        bench = Bench(tmp_path, limiter="auto")
        assert bench.gpu.limiter_of(SPEC) == "auto"
        await bench.gpu.ready()
        assert bench.gpu.limiter_of(SPEC) == "none"
        assert any("shares are not enforced" in event for event in bench.events)

    asyncio.run(test())


def test_an_adopted_worker_outside_mps_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        bench = Bench(tmp_path)
        inside, outside = bench.worker(1), bench.worker(2)
        bench.mps.pids = {1}
        await bench.gpu.ready()
        assert outside.death.done()
        assert not inside.death.done()

    asyncio.run(test())


# ---- proofs --------------------------------------------------------------------------------------


def test_a_worker_that_silently_runs_outside_mps(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker = bench.worker(7)
        await bench.gpu.check_client(worker, "f")
        bench.mps.pids.clear()
        with pytest.raises(LoadFailed, match="function f: its worker 7 runs outside MPS on cuda:0"):
            await bench.gpu.check_client(worker, "f")

    on_gpu(test)


@pytest.mark.parametrize("effective_sms", [32, 33, 34, 35])
def test_a_share_within_a_step_is_kept(on_gpu, effective_sms: int) -> None:
    async def test(bench: Bench) -> None:
        bench.gpu.check_share(FakeWorker(7, 25.0, 100 * effective_sms / 132), "f")
        assert not [event for event in bench.events if event.startswith("f:")]

    on_gpu(test)


def test_a_refused_percentage(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(LoadFailed, match="sees 132 of 132 SMs on cuda:0, more than its share"):
            bench.gpu.check_share(FakeWorker(7, 25.0, 100.0), "f")

    on_gpu(test)


def test_fewer_sms_than_asked_for_are_told(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.gpu.check_share(FakeWorker(7, 50.0, 100 * 20 / 132), "f")
        assert bench.events[-1].startswith("f: has 20 SMs for a share worth 66")

    on_gpu(test)
