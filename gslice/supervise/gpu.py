"""A GPU of the node: its identity, what limits its functions, and the fault that they share.

The daemon makes no CUDA context. What it knows comes from the probe (a child), from NVML, from the
MPS control daemon, and from what workers read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, GsliceError, LoadFailed, ResourceExhausted
from gslice.device.inventory import Inventory, read_inventory
from gslice.device.mps import CONTROL as MPS_CONTROL
from gslice.device.mps import client_environment, find_program
from gslice.device.nvml import GpuFacts, GpuReading, Nvml
from gslice.ipc.messages import EXIT_DEVICE_LOST, GpuGrant
from gslice.supervise.mps import Mps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gslice.core.config import DeviceConfig
    from gslice.core.types import FunctionSpec
    from gslice.device.cuda import Gpu as FoundGpu
    from gslice.supervise.worker import Worker

_CARE_PERIOD_S = 1.0
_STEP_SMS = 2  # MPS gives whole TPCs, of two SMs each, and at least one
_DEVICE_LOST = f"exited with code {EXIT_DEVICE_LOST}"


@dataclass(frozen=True)
class Burial:
    """What is known after a worker's death.

    Attributes:
        device_gone: Nothing that it put on the device can write to memory any more.
        blamed: It may have died of what it ran; False: of another function's fault.
    """

    device_gone: bool = True
    blamed: bool = True


class GpuLibrary:
    """What the driver and NVML say, asked once for all GPUs of a node."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._inventory: Inventory | None = None
        self._nvml: Nvml | None = None

    async def inventory(self) -> Inventory:
        """The probe's answer; a failure is not kept, so that it can be tried again.

        Raises:
            GsliceError: as of `read_inventory`.
        """
        async with self._lock:
            if self._inventory is None:
                self._inventory = await asyncio.to_thread(read_inventory)
            return self._inventory

    async def nvml(self) -> Nvml:
        """NVML, opened.

        Raises:
            FailedPrecondition: as of `Nvml`.
        """
        async with self._lock:
            if self._nvml is None:
                self._nvml = await asyncio.to_thread(Nvml)
            return self._nvml


class Gpu:
    """See the module. Made on the event loop; `ready` does what takes time.

    Args:
        name: `cuda:0`.
        config: Its limits and its limiter.
        library: Of the node.
        directory: For the MPS control daemon's pipes and logs.
        log: For what that daemon prints.
        event: Records what an operator may want to know: subject and text.

    Attributes:
        found: What the probe found; None before `ready`.
        facts: What NVML knows of it.
        reading: What NVML saw last.
        limiter: `mps` or `none`; as configured before `ready`.
        problem: Why no function can be started on it; empty if they can.
        workers: Processes that use it.
    """

    def __init__(
        self,
        name: str,
        config: DeviceConfig,
        library: GpuLibrary,
        directory: Path,
        log: Path,
        event: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.config = config
        self.found: FoundGpu | None = None
        self.facts = GpuFacts()
        self.reading = GpuReading()
        self.limiter = config.limiter
        self.problem = ""
        self.workers: set[Worker] = set()
        self._library = library
        self._event = event
        self._nvml: Nvml | None = None
        self._mps = Mps(directory, config.mps_pipe, log)
        self._functions: dict[int, str] = {}  # by process id, for the blame
        self._fates: dict[int, asyncio.Task[list[int]]] = {}  # by process id: its last fault
        self._opening: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[list[int]] | None = None

    # ---- life ------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Returns when workers can be started on it; what failed before is tried again.

        Raises:
            GsliceError: no driver, no such GPU, no MPS; the message says which.
        """
        if self._recovery is not None and not self._recovery.done():
            await asyncio.wait([self._recovery])
        if self._opening is None or (self._opening.done() and self.problem):
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(_noted)
        await asyncio.shield(self._opening)

    async def care(self) -> None:
        """Until cancelled: reads its sensors, and looks for a fault that no worker noticed."""
        with contextlib.suppress(GsliceError):  # it is told by `problem`, and tried again by loads
            await self.ready()
        while True:
            await asyncio.sleep(_CARE_PERIOD_S)
            if self._nvml is not None and self.found is not None:
                try:
                    self.reading = await asyncio.to_thread(self._nvml.reading, self.found.uuid)
                except GsliceError as error:
                    self._nvml = None
                    self._event(self.name, f"is not watched any more: {error.message}")
            if self._shared and self.found is not None and not self.problem:
                try:
                    if await self._mps.faulted():
                        await asyncio.shield(self._fault())
                except GsliceError as error:
                    self._event(self.name, f"MPS does not answer: {error.message}")

    async def close(self) -> None:
        """Ends its MPS control daemon, if that is ours; its workers have gone."""
        pending = [task for task in (self._opening, self._recovery) if task is not None]
        if pending:
            await asyncio.wait(pending)
        await self._mps.close()

    async def _open(self) -> None:
        try:
            inventory = await self._library.inventory()
            found = inventory.gpu(self.config.index)
            await self._open_nvml(found.uuid)
            if self.facts.mig:
                raise FailedPrecondition(
                    f"{self.name} is partitioned by MIG, which gslice does not use yet",
                    hint="give it a GPU without MIG",
                )
            self.limiter = self._chosen_limiter(inventory.library)
            if self._shared:
                how = await self._mps.open(found.uuid, inventory.library)
                self._event(self.name, f"{how} an MPS control daemon in {self._mps.paths.pipe}")
                await self._check_adopted()
            self.found, self.problem = found, ""
        except GsliceError as error:
            if self.problem != str(error):
                self._event(self.name, f"cannot be used: {error}")
            self.problem = str(error)
            raise

    async def _check_adopted(self) -> None:
        """Ends workers of an earlier daemon whose MPS has ended without them."""
        if not self.workers:
            return
        clients = await self._mps.clients()
        for worker in self.workers:
            if self._mps.owned and worker.pid not in clients:
                self._event(self.name, f"worker {worker.pid} is no client of MPS; it is ended")
                worker.child.abort()

    async def _open_nvml(self, uuid: str) -> None:
        """Facts and readings are good to have; functions run without them, too."""
        try:
            self._nvml = await self._library.nvml()
            self.facts = await asyncio.to_thread(self._nvml.facts, uuid)
            self.reading = await asyncio.to_thread(self._nvml.reading, uuid)
        except FailedPrecondition as error:
            self._nvml = None
            self._event(self.name, f"memory, utilisation and power are not known: {error}")

    def _chosen_limiter(self, library: str) -> str:
        if self.config.limiter != "auto":
            return self.config.limiter
        if self.config.mps_pipe or find_program(MPS_CONTROL, library):
            return "mps"
        self._event(self.name, f"shares are not enforced: there is no {MPS_CONTROL}")
        return "none"

    # ---- what a worker gets ------------------------------------------------------------------

    @property
    def live_resize(self) -> bool:
        """Whether a share can change in place. Under MPS it is fixed when a process starts."""
        return self.limiter == "none"

    @property
    def _shared(self) -> bool:
        """Whether its workers share one context, through MPS, and so one fate."""
        return self.limiter == "mps"

    def grant(self) -> GpuGrant:
        """What a worker is told of it; only after `ready`."""
        assert self.found is not None
        return GpuGrant(self.found.uuid, self.found.sms)

    def cpus(self) -> list[int]:
        """The cores of its workers' threads: as configured, else those near it, else all."""
        near = self.config.cpus or self.facts.cpus
        return list(near) or sorted(os.sched_getaffinity(0))

    def environment(self, spec: FunctionSpec, share_percent: float) -> dict[str, str]:
        """What binds a new worker to it, and to its share; only after `ready`.

        Raises:
            ResourceExhausted: its memory limit leaves nothing.
        """
        assert self.found is not None
        bound = {
            "CUDA_VISIBLE_DEVICES": self.found.uuid,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_MODULE_LOADING": "LAZY",
        }
        if not self._shared:
            return bound
        return bound | client_environment(
            self._mps.paths, share_percent, self._memory_left_bytes(), spec.priority == "low"
        )

    def same_share(self, one_percent: float, other_percent: float) -> bool:
        """Whether two shares come to the same number of SMs, so that a change is not worth it."""
        if self.found is None:
            return one_percent == other_percent
        one, other = (int(self.found.sms * s / 100 + 1e-9) for s in (one_percent, other_percent))
        return one == other

    def take(self, worker: Worker, function: str) -> None:
        """Counts a worker among those that use it."""
        self.workers.add(worker)
        self._functions[worker.pid] = function

    def _memory_left_bytes(self) -> int:
        """What the limit leaves to one more worker; 0: there is no limit."""
        limit = self.config.memory_limit_bytes
        if not limit:
            return 0
        left = limit - sum(worker.device_memory_bytes for worker in self.workers)
        if left < 1 << 20:
            raise ResourceExhausted(
                f"{self.name}: its memory limit is used up",
                hint="raise limits.memory, or unload a function",
            )
        return left

    # ---- what is proven ----------------------------------------------------------------------

    async def check_client(self, worker: Worker, function: str) -> None:
        """Checks that a loaded worker is in MPS's client list.

        CUDA runs without MPS, and without a word, when it cannot reach the control daemon.

        Raises:
            LoadFailed: it is not.
        """
        if not self._shared or worker.pid in await self._mps.clients():
            return
        if not self._mps.owned:
            return  # another pid namespace counts otherwise; the SMs will show it
        raise LoadFailed(
            f"function {function}: its worker {worker.pid} runs outside MPS on {self.name}, so its"
            " share is not kept",
            hint=f"see {self._mps.paths.log}/control.log; one MPS server serves one user only",
        )

    def check_share(self, worker: Worker, function: str) -> None:
        """Checks the SMs that a worker read back against its share.

        Raises:
            LoadFailed: it has more than it was given.
        """
        if not self._shared or self.found is None:
            return
        wanted = self.found.sms * worker.share_percent / 100
        effective = self.found.sms * worker.share_effective_percent / 100
        if effective > wanted + _STEP_SMS:
            raise LoadFailed(
                f"function {function}: its worker sees {effective:.0f} of {self.found.sms} SMs on"
                f" {self.name}, more than its share of {worker.share_percent:g}%",
                hint="MPS refused the percentage, or the worker runs outside MPS",
            )
        if effective < wanted - 2 * _STEP_SMS:
            self._event(
                function,
                f"has {effective:.0f} SMs for a share worth {wanted:.0f}; a limit of the MPS"
                " control daemon may be lower",
            )

    # ---- ends --------------------------------------------------------------------------------

    async def end_client(self, worker: Worker) -> None:
        """Takes a hung worker's work off the GPU, before its process is killed."""
        if self._shared and worker in self.workers and worker.pid not in self._fates:
            await self._mps.end_client(worker.pid)

    async def bury(self, worker: Worker, how: str) -> Burial:
        """Finds out what a worker's death means; call it once for each that has died.

        Args:
            worker: It has died.
            how: In words, such as `exited with code 75`.
        """
        self.workers.discard(worker)
        if not self._shared:
            return Burial()  # the kernel took its context down before it reported the death
        try:
            if worker.pid not in self._fates and (how == _DEVICE_LOST or await self._mps.faulted()):
                self._fault(worker.pid)
            if fate := self._fates.get(worker.pid):
                culprits = await asyncio.shield(fate)
                return Burial(blamed=not culprits or worker.pid in culprits)
            return Burial(device_gone=await self._mps.end_client(worker.pid))
        except GsliceError as error:
            self._event(self.name, f"MPS does not answer: {error.message}")
            return Burial(device_gone=False)
        finally:
            self._functions.pop(worker.pid, None)
            self._fates.pop(worker.pid, None)

    async def client_gone(self, worker: Worker) -> None:
        """Returns when a dead worker is no client any more, however long that takes."""
        await self._mps.end_client(worker.pid, math.inf)

    def _fault(self, *dead: int) -> asyncio.Task[list[int]]:
        """What follows a fault; one that is being dealt with is not dealt with twice."""
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._recover())
            self._recovery.add_done_callback(_noted)
        for pid in (*dead, *(worker.pid for worker in self.workers)):
            self._fates[pid] = self._recovery
        return self._recovery

    async def _recover(self) -> list[int]:
        """Ends every client, waits for a sound server. Returns the culprits, if they are known."""
        clients = dict(self._functions)
        what = "a fatal fault" if self._mps.alive else "the end of its MPS control daemon"
        victims = list(self.workers)
        for worker in victims:
            worker.child.abort()
        if victims:
            await asyncio.wait([worker.death for worker in victims])
        sound = await self._mps.recovered()
        culprits = await asyncio.to_thread(self._mps.culprits, clients)
        names = ", ".join(sorted({*clients.values()})) or "none"
        guilty = ", ".join(f"function {clients[pid]} (worker {pid})" for pid in culprits)
        self._event(
            self.name,
            f"{what} reached every function on it ({names}); they are started again; "
            + (f"MPS blames {guilty}" if guilty else "MPS's log blames nobody"),
        )
        if not sound:
            await self._mps.close()
            self.problem = "MPS did not recover from a fault"
        return culprits


def _noted(task: asyncio.Task[object]) -> None:
    """Whoever waits gets the error; without anybody it is known by `problem` and an event."""
    if not task.cancelled():
        task.exception()
