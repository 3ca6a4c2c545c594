"""What the death of a worker on a GPU leads to: whom it reached, who is blamed, what is told."""

from __future__ import annotations

import asyncio

from gslice.core.errors import Unavailable
from gslice.supervise.clients import Burial
from tests.unit.gpu_bench import Bench


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
