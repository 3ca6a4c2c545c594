"""A GPU of the node: its identity, what limits its functions, and the fault that they share.

The daemon makes no CUDA context. What it knows comes from the probe (a child), from NVML, from the
MPS control daemon, and from what workers read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

from gslice.core.errors import (
    FailedPrecondition,
    GsliceError,
    LoadFailed,
    ResourceExhausted,
    Unavailable,
)
from gslice.core.events import EventKind
from gslice.device.mps import CONTROL as MPS_CONTROL
from gslice.device.mps import NOWHERE, client_environment, resolved_limiter
from gslice.device.nvml import GpuFacts, GpuReading
from gslice.ipc.messages import GpuGrant
from gslice.supervise.clients import Burial, Clients, noted
from gslice.supervise.mps import Mps
from gslice.supervise.weights import GpuWeights, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from gslice.core.config import DeviceConfig
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.core.users import User
    from gslice.device.cuda import Gpu as FoundGpu
    from gslice.device.nvml import Nvml
    from gslice.supervise.gpu_library import GpuLibrary
    from gslice.supervise.worker import Worker

_CARE_PERIOD_S = 1.0
_ONE_CONTEXT = "exclusive process"
_STEP_SMS = 2  # MPS gives whole TPCs, of two SMs each, and at least one


class Gpu:
    """See the module. Made on the event loop; `ready` does what takes time.

    Args:
        name: `cuda:0`.
        config: Its limits and its limiter.
        library: Of the node.
        directory: For the MPS control daemon's pipes and logs.
        log: For what that daemon prints.
        event: Records what an operator may want to know.
        user: Whom its workers run as; None: whom we run as.

    Attributes:
        found: What the probe found; None before `ready`.
        facts: What NVML knows of it.
        reading: What NVML saw last.
        limiter: `mps`, `green` or `none`; as configured before `ready`.
        problem: Why no function can be started on it; empty if they can.
        clients: Workers that use it.
        weights: What those of one model share.
        measuring: Held while one of them loads or warms up, for each takes what goes of the GPU's
            free memory meanwhile for its own.
    """

    def __init__(
        self,
        name: str,
        config: DeviceConfig,
        library: GpuLibrary,
        directory: Path,
        log: Path,
        event: Record,
        user: User | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.found: FoundGpu | None = None
        self.facts = GpuFacts()
        self.reading = GpuReading()
        self.limiter = config.limiter
        self.problem = ""
        self._library = library
        self._event = event
        self._nvml: Nvml | None = None
        self._mps = Mps(directory, config.mps_pipe, log, user)
        self.weights = GpuWeights()
        self.clients = Clients(name, self._mps, event, self.weights)
        self.measuring = asyncio.Lock()
        self._opening: asyncio.Task[None] | None = None
        self._ailment = ""
        self._lost = False

    # ---- life ------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Returns when workers can be started on it; what failed before is tried again.

        Raises:
            GsliceError: no driver, no such GPU, no MPS; the message says which.
        """
        await self.clients.settled()
        if self._opening is None or (self._opening.done() and not self.usable):
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(noted)
        await asyncio.shield(self._opening)

    async def care(self) -> None:
        """Until cancelled: reads its sensors, and looks for a fault that no worker noticed."""
        with contextlib.suppress(GsliceError):  # it is told by `problem`, and tried again by loads
            await self.ready()
        while True:
            await asyncio.sleep(_CARE_PERIOD_S)
            await self.read()
            if self.usable:
                await self._look_at_mps()

    async def read(self) -> None:
        """Reads its sensors now, as far as NVML is there."""
        if self._nvml is None or self.found is None:
            return
        try:
            self.reading = await asyncio.to_thread(self._nvml.reading, self.found.uuid)
        except Unavailable as error:
            if not self.problem:
                self._event(self.name, EventKind.DEVICE, f"cannot be used: {error}")
            self.problem, self._lost = str(error), True
            return
        except GsliceError as error:
            self._nvml = None
            text = f"is not watched any more: {error.message}"
            self._event(self.name, EventKind.DEVICE, text)
        if self._lost:
            self.problem, self._lost = "", False
            self._event(self.name, EventKind.DEVICE, "is back")

    async def energy_j(self) -> float:
        """What it took since the driver started, as far as NVML counts it; 0: it does not."""
        if self._nvml is None or self.found is None:
            return 0.0
        return await asyncio.to_thread(self._nvml.energy_j, self.found.uuid)

    @property
    def memory_free_bytes(self) -> int | None:
        """Of all of it, when it was read last; None: NVML does not say."""
        total, used = self.facts.memory_bytes, self.reading.memory_used_bytes
        return max(0, total - used) if self._nvml is not None and total and used else None

    @contextlib.asynccontextmanager
    async def measured_load(self, worker: Worker) -> AsyncIterator[None]:
        """Around the load of a worker, alone on the GPU: what went besides weights is its context.

        Without a context the driver tells nothing, so the worker itself cannot measure that.
        """
        async with self.measuring:
            await self.read()
            before_bytes = self.memory_free_bytes
            yield
            await self.read()
            after_bytes = self.memory_free_bytes
        if before_bytes is not None and after_bytes is not None:
            loaded_bytes = worker.memory.weights_bytes + worker.made_bytes
            gone_bytes = before_bytes - after_bytes - loaded_bytes
            worker.memory = dataclasses.replace(worker.memory, context_bytes=max(0, gone_bytes))

    async def _look_at_mps(self) -> None:
        try:
            await self.clients.look()
            self._mps.bound_log()
        except (GsliceError, OSError) as error:
            ailment = f"MPS is not well: {error}"
        else:
            ailment = ""
        if ailment and ailment != self._ailment:
            self._event(self.name, EventKind.DEVICE, ailment)
        self._ailment = ailment

    async def close(self) -> None:
        """Ends its MPS control daemon, if that is ours; its workers have gone."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        await self.clients.settled()
        await self._mps.close()

    async def bury(self, worker: Worker, how: str) -> Burial:
        """What a worker's death means: `Clients.bury`, once it is known how they are limited."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        return await self.clients.bury(worker, how)

    async def _open(self) -> None:
        try:
            inventory = await self._library.inventory()
            found = inventory.gpu(self.config.gpu)
            self._library.claim(found.uuid, self.name)
            await self._open_nvml(found.uuid)
            self.limiter = self._chosen_limiter(inventory.library)
            self.clients.shared = self.limiter == "mps"
            if self.clients.shared:
                how = await self._mps.open(found.uuid, inventory.library)
                text = f"{how} an MPS control daemon in {self._mps.paths.pipe}"
                self._event(self.name, EventKind.DEVICE, text)
                await self._check_adopted()
            self.found, self.problem, self.clients.sound = found, "", True
        except GsliceError as error:
            if self.problem != str(error):
                self._event(self.name, EventKind.DEVICE, f"cannot be used: {error}")
            self.problem = str(error)
            raise

    async def _check_adopted(self) -> None:
        """Ends workers of an earlier daemon whose MPS has ended without them."""
        adopted = [worker for worker in self.clients.sharing if not worker.death.done()]
        clients = await self._mps.clients()  # from now on it is known whom it lists
        if not self._mps.owned:
            return
        for worker in adopted:
            if worker.pid not in clients:
                text = f"worker {worker.pid} is no client of MPS; it is ended"
                self._event(self.name, EventKind.KILL, text)
                worker.child.abort()

    async def _open_nvml(self, uuid: str) -> None:
        """Facts and readings are good to have; functions run without them, too."""
        try:
            self._nvml = await self._library.nvml()
            self.facts = await asyncio.to_thread(self._nvml.facts, uuid)
            self.reading = await asyncio.to_thread(self._nvml.reading, uuid)
        except FailedPrecondition as error:
            self._nvml = None
            text = f"memory, utilisation and power are not known: {error}"
            self._event(self.name, EventKind.DEVICE, text)

    def _chosen_limiter(self, library: str) -> str:
        ordered = self.config.limiter
        chosen = resolved_limiter(ordered, self.config.mps_pipe, library)
        if chosen == "none" != ordered:
            text = f"shares are not enforced: there is no {MPS_CONTROL}"
            self._event(self.name, EventKind.SHARE, text)
        return chosen

    @property
    def usable(self) -> bool:
        """Whether workers can be started on it, as far as is known."""
        return self.found is not None and not self.problem and self.clients.sound

    # ---- what a worker gets ------------------------------------------------------------------

    def limiter_of(self, spec: FunctionSpec) -> str:
        """What enforces a function's share; under MPS it is fixed when a process starts."""
        return self.config.limiter_of(spec, self.limiter)

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
            FailedPrecondition: it is exclusive, and the GPU would not take a shadow beside it.
        """
        assert self.found is not None
        if spec.exclusive and self.facts.compute_mode == _ONE_CONTEXT:
            raise FailedPrecondition(
                f"function {spec.name}: {self.name} is in compute mode {_ONE_CONTEXT}, and has no"
                " room for a shadow without MPS",
                hint="nvidia-smi -c DEFAULT",
            )
        bound = {
            "CUDA_VISIBLE_DEVICES": self.found.uuid,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_MODULE_LOADING": "LAZY",
        }
        if self.limiter_of(spec) != "mps":
            # A daemon in the default directory would take it in otherwise.
            return bound | {"CUDA_MPS_PIPE_DIRECTORY": NOWHERE}
        return bound | client_environment(
            self._mps.paths, share_percent, self._memory_left_bytes(spec), spec.priority == "low"
        )

    def same_share(self, one_percent: float, other_percent: float) -> bool:
        """Whether two shares come to the same number of SMs, so that a change is not worth it."""
        if self.found is None:
            return one_percent == other_percent
        one, other = (int(self.found.sms * s / 100 + 1e-9) for s in (one_percent, other_percent))
        return one == other

    def _memory_left_bytes(self, spec: FunctionSpec) -> int:
        """What the limit leaves to one more process of a function; 0: there is no limit."""
        if spec.program is not None and spec.program.memory_bytes:
            return spec.program.memory_bytes
        limit = self.config.memory_limit_bytes
        if not limit:
            return 0
        left = limit - together(self.clients.workers).device_bytes
        left -= sum(program.memory_limit_bytes for program in self.clients.programs)
        if left < 1 << 20:
            raise ResourceExhausted(
                f"{self.name}: its memory limit is used up",
                hint="raise limits.memory, or unload a function",
            )
        # MPS may count what a client maps as its own.
        return left + self.weights.size_bytes(spec)

    # ---- what is proven ----------------------------------------------------------------------

    async def check_client(self, worker: Worker, function: str) -> None:
        """Checks that a loaded worker is in MPS's client list.

        CUDA runs without MPS, and without a word, when it cannot reach the control daemon.

        Raises:
            LoadFailed: it is not.
        """
        if not self.clients.shares(worker) or worker.pid in await self._mps.clients():
            return
        if not self._mps.owned:
            return  # another pid namespace counts otherwise; the SMs will show it
        raise LoadFailed(
            f"function {function}: its worker {worker.pid} runs outside MPS on {self.name}, so its"
            " share is not kept",
            hint=f"see {self._mps.log}; one MPS server serves one user only",
        )

    async def misses(self, pids: Collection[int]) -> bool:
        """Whether none of a program's processes is a client of our MPS, which limits only those.

        Raises:
            GsliceError: MPS does not answer.
        """
        shared = self.clients.shared and self._mps.owned
        return shared and not set(pids) & await self._mps.clients()

    def check_share(self, worker: Worker, function: str) -> None:
        """Checks the SMs that a worker read back against its share.

        Raises:
            LoadFailed: it has more than it was given.
        """
        if not self.clients.shares(worker) or self.found is None:
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
                EventKind.SHARE,
                f"has {effective:.0f} SMs for a share worth {wanted:.0f}; a limit of the MPS"
                " control daemon may be lower",
            )
