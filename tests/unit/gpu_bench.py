"""A GPU as the daemon sees it, over fakes. The fixture is in conftest.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gslice.core.config import DeviceConfig
from gslice.core.errors import FailedPrecondition
from gslice.core.types import FunctionSpec, MemoryTaken
from gslice.device.cuda import Gpu as FoundGpu
from gslice.device.inventory import Inventory
from gslice.device.mps import MpsPaths
from gslice.supervise.gpu import Gpu

FOUND = FoundGpu("GPU-1", "NVIDIA H100", 132, (9, 0), 80 << 30)


class FakeChild:
    is_blamed = True

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    def abort(self) -> None:
        if not self._worker.death.done():
            self._worker.death.set_result("killed by SIGKILL")


class FakeWorker:
    """As much of a worker as a GPU looks at."""

    def __init__(self, pid: int, share_percent: float = 0.0, effective_percent: float = 0.0):
        self.pid = pid
        self.device = "cuda:0"
        self.share_percent = share_percent
        self.share_effective_percent = effective_percent
        self.memory = MemoryTaken()
        self.weights = None
        self.made_bytes = 0
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.child = FakeChild(self)


class FakeProgram:
    """As much of a program as a GPU looks at."""

    def __init__(self, spec: FunctionSpec) -> None:
        assert spec.program is not None
        self.note = SimpleNamespace(spec=spec)
        self.memory_limit_bytes = spec.program.memory_bytes
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.death.set_result("killed by SIGKILL")


class FakeMps:
    """An MPS whose state a test sets."""

    def __init__(self) -> None:
        self.owned = True
        self.alive = True
        self.paths = MpsPaths(Path("/p"), Path("/l"))
        self.log = Path("/l/out.log")
        self.pids: set[int] = set()
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
        return Inventory(13000, "/lib/libcuda.so.1", {"cuda:0": FOUND})

    async def nvml(self) -> Any:
        raise FailedPrecondition("no NVML here")

    def claim(self, uuid: str, device: str) -> None:
        """There is one device."""


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

    def worker(self, pid: int, *, alone: bool = False, **settings: Any) -> FakeWorker:
        worker = FakeWorker(pid, **settings)
        self.gpu.clients.add(worker, f"f{pid}", alone=alone)
        if not alone:
            self.mps.pids.add(pid)
        return worker
