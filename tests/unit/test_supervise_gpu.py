"""A GPU as the daemon sees it: what workers are given, what is checked, what a fault leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import DeviceConfig
from gslice.core.errors import FailedPrecondition, LoadFailed, ResourceExhausted, Unavailable
from gslice.core.types import FunctionSpec
from gslice.device.cuda import Gpu as FoundGpu
from gslice.device.inventory import Inventory
from gslice.device.mps import MpsPaths
from gslice.device.nvml import GpuFacts
from gslice.supervise.clients import Burial
from gslice.supervise.gpu import Gpu

FOUND = FoundGpu("GPU-1", "NVIDIA H100", 132, (9, 0), 80 << 30)
SPEC = FunctionSpec("f")


class FakeChild:
    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    def abort(self) -> None:
        if not self._worker.death.done():
            self._worker.death.set_result("killed by SIGKILL")


class FakeWorker:
    """As much of a worker as a GPU looks at."""

    def __init__(self, pid: int, share_percent: float = 0.0, effective_percent: float = 0.0):
        self.pid = pid
        self.share_percent = share_percent
        self.share_effective_percent = effective_percent
        self.device_memory_bytes = 0
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.child = FakeChild(self)


class FakeMps:
    """An MPS whose state a test sets."""

    def __init__(self) -> None:
        self.owned = True
        self.alive = True
        self.paths = MpsPaths(Path("/p"), Path("/l"))
        self.log = Path("/l/out.log")
        self.pids: set[int] = set()
        self.ours: set[int] = set()
        self.stays = False
        self.fault = False
        self.sound = True
        self.guilty: list[int] = []
        self.ended: list[int] = []
        self.opened = 0
        self.closed = 0
        self.refusals: list[Exception] = []
        self.recoveries = 0
        self.recovering = asyncio.Event()

    async def open(self, uuid: str, library: str) -> str:
        self.opened += 1
        if self.refusals:
            raise self.refusals.pop()
        return "started"

    async def close(self) -> None:
        self.closed += 1

    def bound_log(self) -> None:
        """Nothing grows."""

    async def clients(self) -> set[int]:
        return self.pids

    async def end_client(self, pid: int, timeout_s: float = 5.0) -> bool:
        self.ended.append(pid)
        return not self.stays

    async def faulted(self) -> bool:
        return self.fault

    async def shows_fault(self) -> bool:
        return self.fault

    async def recovered(self) -> bool:
        self.recoveries += 1
        self.recovering.set()
        await asyncio.sleep(0)
        self.fault = False
        return self.sound

    def culprits(self, clients: Any) -> list[int]:
        return [pid for pid in self.guilty if pid in clients]


class FakeLibrary:
    async def inventory(self) -> Inventory:
        return Inventory(13000, "/lib/libcuda.so.1", (FOUND,))

    async def nvml(self) -> Any:
        raise FailedPrecondition("no NVML here")


class Bench:
    """A GPU over fakes, and the events that it recorded."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.events: list[str] = []
        config = DeviceConfig(kind="cuda", **{"limiter": "mps", **settings})
        self.mps = FakeMps()
        self.gpu: Any = Gpu(
            "cuda:0", config, FakeLibrary(), directory, directory / "log", self._event
        )
        self.gpu._mps = self.gpu.clients._mps = self.mps

    def _event(self, subject: str, kind: str, text: str) -> None:
        self.events.append(f"{subject}: {text}")

    def worker(self, pid: int, **settings: Any) -> FakeWorker:
        worker = FakeWorker(pid, **settings)
        self.gpu.clients.add(worker, f"f{pid}")
        self.mps.pids.add(pid)
        return worker


@pytest.fixture
def on_gpu(tmp_path: Path) -> Callable[..., None]:
    """Runs a test on a loop, with a GPU that is ready."""

    def run(test: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            bench = Bench(tmp_path, **settings)
            await bench.gpu.ready()
            await test(bench)

        asyncio.run(main())

    return run


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
        assert bench.gpu.live_resize
        assert bench.mps.opened == 0
        worker = FakeWorker(7, 25.0, 100.0)
        await bench.gpu.check_client(worker, "f")
        bench.gpu.check_share(worker, "f")

    on_gpu(test, limiter="none")


def test_what_others_took_is_not_given_again(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.worker(1).device_memory_bytes = 3 << 30
        found = bench.gpu.environment(SPEC, 10.0)
        assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1024M"
        bench.worker(2).device_memory_bytes = 1 << 30
        with pytest.raises(ResourceExhausted, match="cuda:0: its memory limit is used up"):
            bench.gpu.environment(SPEC, 10.0)

    on_gpu(test, memory_limit_bytes=4 << 30)


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
        bench = Bench(tmp_path, index=3)
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


def test_without_programs_auto_means_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gslice.supervise.gpu.find_program", lambda name, library: "")

    async def test() -> None:
        bench = Bench(tmp_path, limiter="auto")
        assert not bench.gpu.live_resize
        await bench.gpu.ready()
        assert bench.gpu.limiter == "none"
        assert bench.gpu.live_resize
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


# ---- deaths --------------------------------------------------------------------------------------


def test_a_plain_death_is_over_when_the_client_is_out(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker = bench.worker(7)
        assert await bench.gpu.clients.bury(worker, "killed by SIGKILL") == Burial()
        assert bench.mps.ended == [7]
        assert bench.mps.recoveries == 0

    on_gpu(test)


def test_a_lost_device_restarts_everybody_and_blames_the_culprit(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        culprit, idle, busy = (bench.worker(pid) for pid in (1, 2, 3))
        bench.mps.fault, bench.mps.guilty = True, [1]
        first, second = await asyncio.gather(
            bench.gpu.clients.bury(culprit, "exited with code 75"),
            bench.gpu.clients.bury(busy, "exited with code 75"),
        )
        assert (first.blamed, second.blamed) == (True, False)
        assert idle.death.result() == "killed by SIGKILL"
        assert not (await bench.gpu.clients.bury(idle, "killed by SIGKILL")).blamed
        assert bench.mps.recoveries == 1
        assert any("MPS blames function f1 (worker 1)" in event for event in bench.events)

    on_gpu(test)


def test_a_fault_that_names_nobody_blames_all(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        one, other = bench.worker(1), bench.worker(2)
        bench.mps.fault = True
        assert (await bench.gpu.clients.bury(one, "exited with code 75")).blamed
        assert (await bench.gpu.clients.bury(other, "killed by SIGKILL")).blamed
        assert any("MPS's log blames nobody" in event for event in bench.events)

    on_gpu(test)


def test_a_fault_is_known_by_the_server_too(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        adopted, other = bench.worker(1), bench.worker(2)
        bench.mps.fault = True
        await bench.gpu.clients.bury(adopted, "ended")  # how, only its parent would know
        assert other.death.done()

    on_gpu(test)


def test_a_second_fault_is_one_of_its_own(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        for pid in (1, 2):
            bench.mps.fault = True
            await bench.gpu.clients.bury(bench.worker(pid), "exited with code 75")
        assert bench.mps.recoveries == 2

    on_gpu(test)


def test_new_workers_wait_until_the_server_is_sound(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        bench.mps.fault, bench.mps.sound = True, False
        burial = asyncio.create_task(bench.gpu.clients.bury(bench.worker(1), "exited with code 75"))
        await bench.mps.recovering.wait()
        await bench.gpu.ready()
        assert burial.done()
        assert bench.mps.closed == 1
        assert bench.mps.opened == 2  # it did not recover, so it was started anew

    on_gpu(test)


def test_an_mps_that_does_not_answer_proves_nothing(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        async def deaf() -> bool:
            raise Unavailable("nobody answers")

        bench.mps.faulted = deaf
        assert await bench.gpu.clients.bury(bench.worker(1), "ended") == Burial(device_gone=False)
        assert "cuda:0: MPS does not answer: nobody answers" in bench.events

    on_gpu(test)


def test_a_hung_client_is_taken_out_first(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker, other = bench.worker(7), bench.worker(8)
        await bench.gpu.clients.end(worker)
        assert bench.mps.ended == [7]
        assert await bench.gpu.clients.bury(worker, "exited with code 75") == Burial()
        assert not other.death.done()

    on_gpu(test)


def test_a_device_that_one_worker_lost_alone(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker, other = bench.worker(7), bench.worker(8)
        assert await bench.gpu.clients.bury(worker, "exited with code 75") == Burial()
        assert bench.mps.ended == [7]
        assert not other.death.done()
        assert bench.gpu.clients.faults == 0

    on_gpu(test)


def test_a_client_that_never_goes_is_told(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        worker = bench.worker(7)
        bench.mps.stays = True
        assert not await bench.gpu.clients.gone(worker)
        assert "MPS does not say that worker 7 is gone" in bench.events[-1]
        bench.mps.stays = False
        assert await bench.gpu.clients.gone(worker)

    on_gpu(test)


def test_an_ailing_mps_is_told_once(on_gpu) -> None:
    async def test(bench: Bench) -> None:
        async def deaf() -> bool:
            raise Unavailable("nobody answers")

        bench.mps.faulted = deaf
        for _ in range(3):
            await bench.gpu._look_at_mps()
        told = [event for event in bench.events if "not well" in event]
        assert told == ["cuda:0: MPS is not well: nobody answers"]

    on_gpu(test)
