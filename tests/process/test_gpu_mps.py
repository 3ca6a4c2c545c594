"""The MPS manager with real processes: its control daemon, its clients, their ends and faults."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from gslice.core.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from gslice.device.mps import client_environment
from gslice.ipc.process import start_ticks
from gslice.supervise.mps import FAULT, Mps
from tests.fakes.client import Client
from tests.fakes.gpu import FakeGpu
from tests.node import kill_and_wait

ILLEGAL_ADDRESS, NOT_READY = 700, 807
LIBRARY = "/nowhere/libcuda.so.1"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gs") as directory:  # socket paths must be short
        yield Path(directory)


def new_mps(home: Path, given_pipe: str = "") -> Mps:
    return Mps(home, given_pipe, home / "out.log")


def with_mps(gpu: FakeGpu, home: Path, test: Callable[[Mps], Awaitable[None]]) -> None:
    """Runs a test with a control daemon of ours; in the end it is gone."""

    async def run() -> None:
        mps = new_mps(home)
        assert await mps.open(gpu.gpus[0].uuid, LIBRARY) == "started"
        try:
            await test(mps)
        finally:
            await mps.close()
        assert not mps.alive

    asyncio.run(run())


def client(mps: Mps, share_percent: float = 50.0) -> Client:
    found = client_environment(mps.paths, share_percent, 0, low_priority=False)
    return Client(found)


# ---- the control daemon -------------------------------------------------------------------------


def test_it_starts_takes_clients_and_ends(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        assert await mps.clients() == set()
        assert await mps.status() == ""
        assert not await mps.faulted()
        with client(mps, 25.0) as one:
            assert one.start() == 0
            assert await mps.clients() == {one.pid}
            assert await mps.status() == "ACTIVE"
            assert one.attribute(16) == 32  # a quarter of 132, in steps of two

    with_mps(gpu, home, test)
    assert not (home / "control.pid").exists()


def test_the_next_daemon_takes_it_over(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        before = (home / "control.pid").read_text()
        with client(mps) as one:
            one.start()
            other = new_mps(home)
            assert await other.open(gpu.gpus[0].uuid, LIBRARY) == "adopted"
            assert await other.clients() == {one.pid}
        assert (home / "control.pid").read_text() == before

    with_mps(gpu, home, test)


def test_a_dead_one_is_replaced_with_its_sockets(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        await asyncio.to_thread(kill_and_wait, int((home / "control.pid").read_text().split()[0]))
        assert mps._process is not None
        await mps._process.wait(10)
        assert not mps.alive
        assert await mps.faulted()
        assert await mps.open(gpu.gpus[0].uuid, LIBRARY) == "started"
        assert await mps.clients() == set()

    with_mps(gpu, home, test)


def test_a_busy_one_is_waited_for(
    gpu: FakeGpu, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(mps: Mps) -> None:
        monkeypatch.setattr("gslice.device.mps.COMMAND_TIMEOUT_S", 0.5)
        gpu.set_mps(deaf=1)
        other = new_mps(home)
        opening = asyncio.create_task(other.open(gpu.gpus[0].uuid, LIBRARY))
        with pytest.raises(DeadlineExceeded):
            await mps.clients()
        assert not opening.done()
        monkeypatch.setattr("gslice.device.mps.COMMAND_TIMEOUT_S", 5.0)
        gpu.set_mps()
        assert await opening == "adopted"
        assert mps.alive

    with_mps(gpu, home, test)


def test_one_that_does_not_answer_is_replaced(
    gpu: FakeGpu, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.supervise.mps.START_TIMEOUT_S", 2.0)
    process = subprocess.Popen(["sleep", "600"])
    (home / "control.pid").write_text(f"{process.pid} {start_ticks(process.pid)}\n")

    async def test(mps: Mps) -> None:
        with pytest.raises(NotFound):
            start_ticks(process.pid)
        assert await mps.clients() == set()

    try:
        with_mps(gpu, home, test)
    finally:
        process.kill()
        process.wait()


def test_a_refused_start_has_its_words(gpu: FakeGpu, home: Path) -> None:
    gpu.set_mps(start_fails=1)
    with pytest.raises(FailedPrecondition, match=r"MPS does not start: .*Failed to start the MPS"):
        asyncio.run(new_mps(home).open(gpu.gpus[0].uuid, LIBRARY))
    assert not (home / "control.pid").exists()


def test_without_the_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr("gslice.device.mps._FOLDERS", ())
    with pytest.raises(FailedPrecondition, match="nvidia-cuda-mps-control is neither on the PATH"):
        asyncio.run(new_mps(home).open("GPU-1", LIBRARY))


def test_the_operator_s_is_used_and_left_alone(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        other = new_mps(home / "other", str(mps.paths.pipe))
        assert await other.open(gpu.gpus[0].uuid, LIBRARY) == "found"
        with client(other) as one:
            one.start()
            assert await other.clients() == {one.pid}
            assert not await other.faulted()
        await other.close()
        assert mps.alive
        assert await mps.status() == "ACTIVE"

    with_mps(gpu, home, test)


def test_the_operator_s_cannot_be_reached(gpu: FakeGpu, home: Path) -> None:
    with pytest.raises(Unavailable, match=f"no MPS control daemon answers in {home}/nobody"):
        asyncio.run(new_mps(home, f"{home}/nobody").open(gpu.gpus[0].uuid, LIBRARY))


# ---- clients ------------------------------------------------------------------------------------


def test_a_hung_client_is_taken_out(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        with client(mps) as hung, client(mps) as other:
            hung.start()
            other.start()
            os.kill(hung.pid, signal.SIGSTOP)
            assert await mps.end_client(hung.pid)
            assert await mps.clients() == {other.pid}
            os.kill(hung.pid, signal.SIGCONT)
            assert await mps.end_client(hung.pid)  # it is out already

    with_mps(gpu, home, test)


def test_a_daemon_that_does_not_answer_proves_nothing(
    gpu: FakeGpu, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.device.mps.COMMAND_TIMEOUT_S", 2.0)

    async def test(mps: Mps) -> None:
        gpu.set_mps(deaf=1)
        assert not await mps.end_client(os.getpid(), timeout_s=1.0)
        gpu.set_mps()

    with_mps(gpu, home, test)


def test_a_client_that_an_operator_s_mps_counts_otherwise(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        other = new_mps(home / "other", str(mps.paths.pipe))
        await other.open(gpu.gpus[0].uuid, LIBRARY)
        unlisted = os.getpid()  # as if of another pid namespace
        with client(mps) as one:
            one.start()
            await other.clients()
            assert not await other.end_client(unlisted, timeout_s=0.5)
            ending = asyncio.create_task(other.end_client(unlisted))
            await asyncio.to_thread(one.kill)
            assert await ending

    with_mps(gpu, home, test)


# ---- faults -------------------------------------------------------------------------------------


def test_a_fault_its_culprit_and_the_recovery(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        with client(mps) as innocent:
            innocent.start()
            with client(mps) as culprit:
                culprit.start()
                stream = culprit.made("cuStreamCreate", 1)
                culprit.fault(stream)
                assert culprit.call("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS
                assert await mps.faulted()
                assert await mps.status() == FAULT
                with client(mps) as late:
                    assert late.start() == NOT_READY
            assert await mps.faulted()  # as long as one of them lives
            assert mps.culprits({innocent.pid, culprit.pid}) == [culprit.pid]
        assert await mps.recovered()
        assert not await mps.faulted()
        with client(mps) as later:
            assert later.start() == 0

    with_mps(gpu, home, test)


def test_an_end_of_the_daemon_is_no_recovery(gpu: FakeGpu, home: Path) -> None:
    async def test(mps: Mps) -> None:
        assert await mps.recovered()
        await mps.close()
        assert not await mps.recovered()

    with_mps(gpu, home, test)


def test_a_state_directory_that_cannot_hold_it(gpu: FakeGpu, home: Path) -> None:
    (home / "pipe").write_text("in the way")
    with pytest.raises(FailedPrecondition, match=r"MPS cannot be started: .*File exists"):
        asyncio.run(new_mps(home).open(gpu.gpus[0].uuid, LIBRARY))
