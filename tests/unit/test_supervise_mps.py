"""What the manager of MPS makes of what a control daemon says."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gslice.ipc.process import start_ticks
from gslice.supervise.clients import Clients
from gslice.supervise.mps import FAULT, Mps
from gslice.supervise.weights import GpuWeights
from tests.unit.gpu_bench import FakeWorker


class TwoServers:
    """A control daemon of an operator, with servers for two users."""

    def servers(self) -> list[int]:
        return [1, 2]

    def clients(self, server: int) -> list[int]:
        return {1: [10], 2: [20]}[server]

    def status(self, server: int) -> str:
        return {1: FAULT, 2: "ACTIVE"}[server]


def test_a_fault_of_another_user_s_server_is_not_ours(tmp_path: Path) -> None:
    mps: Any = Mps(tmp_path, "/run/mps", tmp_path / "log")
    mps._control = TwoServers()
    mps.ours = {20}
    assert not asyncio.run(mps.faulted())
    mps.ours = {10, 20}
    assert asyncio.run(mps.faulted())
    mps.ours = {99}  # as another pid namespace counts: it may be any of them
    assert asyncio.run(mps.faulted())


def test_the_clients_that_matter_are_the_workers_there_are(tmp_path: Path) -> None:
    async def test() -> None:
        mps: Any = Mps(tmp_path, "/run/mps", tmp_path / "log")
        mps._control = TwoServers()
        clients: Any = Clients("cuda:0", mps, lambda subject, text: None, GpuWeights())
        assert await mps.faulted()
        clients.add(FakeWorker(20), "f")
        assert not await mps.faulted()

    asyncio.run(test())


class LateServer(TwoServers):
    """One that notices a fault when its clients have ended already."""

    def __init__(self) -> None:
        self.statuses = ["ACTIVE", FAULT, FAULT, "ACTIVE"]

    def servers(self) -> list[int]:
        return [1]

    def clients(self, server: int) -> list[int]:
        return []

    def status(self, server: int) -> str:
        return self.statuses.pop(0)


def test_a_server_that_has_not_noticed_yet_has_not_recovered(tmp_path: Path) -> None:
    mps: Any = Mps(tmp_path, "/run/mps", tmp_path / "log")
    mps._control = LateServer()
    assert asyncio.run(mps.recovered())
    assert mps._control.statuses == []


def test_a_server_that_outlives_its_control_daemon_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.supervise.mps.SERVER_END_TIMEOUT_S", 0.1)
    mps: Any = Mps(tmp_path, "", tmp_path / "log")  # without a control daemon that lives
    with subprocess.Popen(["sleep", "600"]) as server:
        mps._servers[server.pid] = start_ticks(server.pid)
        try:
            assert asyncio.run(mps.end_client(1))
            assert not Path(f"/proc/{server.pid}").exists()
        finally:
            server.kill()
    assert mps._servers == {}
