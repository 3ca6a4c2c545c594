"""The workers of one GPU, and the fate that they share under MPS.

A fatal fault reaches every client of an MPS server, and the server takes no new ones until all of
those have ended. So all are ended, what they had claimed is queued again, and all are started.
A client that lost its device alone is one death: the server says which of the two it was.
Workers of a function that has the GPU to itself are no clients, and each has its own fate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.ipc.messages import EXIT_DEVICE_LOST

if TYPE_CHECKING:
    from collections.abc import Collection

    from gslice.core.events import Record
    from gslice.supervise.mps import Mps
    from gslice.supervise.program import Program
    from gslice.supervise.weights import GpuWeights
    from gslice.supervise.worker import Worker

_GONE_TIMEOUT_S = 600.0
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


class Clients:
    """See the module.

    Args:
        name: The GPU's.
        mps: Its MPS.
        event: Records what an operator may want to know.
        weights: What they share, and is not trusted after a fault.

    Attributes:
        shared: Whether they go through MPS, but for those that are alone on the GPU.
        workers: Those that run.
        programs: Those that are not ours, and use it, too.
        faults: Fatal faults that reached all of them.
        sound: False: MPS did not recover from the last one.
    """

    def __init__(self, name: str, mps: Mps, event: Record, weights: GpuWeights) -> None:
        self.shared = False
        self.workers: set[Worker] = set()
        self.programs: set[Program] = set()
        self.faults = 0
        self.sound = True
        self._name = name
        self._mps = mps
        self._event = event
        self._weights = weights
        self._functions: dict[int, str] = {}  # by process id
        mps.ours = self._functions.keys()  # a view, so it stays true
        self._taken_out: set[int] = set()  # process ids: they lose their device by our order
        self._alone: set[Worker] = set()
        self._fates: dict[int, asyncio.Task[list[int]]] = {}  # by process id: its last fault
        self._recovery: asyncio.Task[list[int]] | None = None

    def add(self, worker: Worker, function: str, *, alone: bool = False) -> None:
        """Counts a worker in.

        Args:
            worker: It runs.
            function: Whose it is.
            alone: It does without MPS: it has the GPU to itself, or is in its host.
        """
        self.workers.add(worker)
        if alone:
            self._alone.add(worker)
        else:
            self._functions[worker.pid] = function

    @property
    def sharing(self) -> set[Worker]:
        """Those of the workers that go through MPS, if any do."""
        return self.workers - self._alone

    def shares(self, worker: Worker) -> bool:
        """Whether a worker goes through MPS, and so shares the fate of all that do."""
        return self.shared and worker not in self._alone

    async def end(self, worker: Worker) -> None:
        """Takes a hung worker's work off the GPU, before its process is killed."""
        if self.shares(worker) and worker in self.workers and worker.pid not in self._fates:
            self._taken_out.add(worker.pid)
            await self._mps.end_client(worker.pid)

    async def take_out(self, pids: Collection[int]) -> None:
        """Likewise of a program, whose processes are about to be killed."""
        if not self.shared:
            return
        try:
            for pid in set(pids) & await self._mps.clients():
                await self._mps.end_client(pid)
        except GsliceError as error:
            self._event(self._name, EventKind.DEVICE, f"MPS does not answer: {error.message}")

    async def bury(self, worker: Worker, how: str) -> Burial:
        """Finds out what a worker's death means, and deals with it if it reached others.

        Args:
            worker: It has died.
            how: In words, such as `exited with code 75`.
        """
        self.workers.discard(worker)
        if how == _DEVICE_LOST and worker.pid not in self._taken_out and worker.weights is not None:
            self._weights.drop(worker.weights.model)  # it may have died of what it read there
        if not self.shares(worker):
            self._alone.discard(worker)
            # The kernel took its context down before it reported the death.
            return Burial(blamed=worker.child.is_blamed)
        try:
            if worker.pid not in self._fates and await self._reached_all(worker, how):
                self._fault(worker.pid)
            if fate := self._fates.get(worker.pid):
                culprits = await asyncio.shield(fate)
                return Burial(blamed=not culprits or worker.pid in culprits)
            return Burial(device_gone=await self._mps.end_client(worker.pid))
        except GsliceError as error:
            self._event(self._name, EventKind.DEVICE, f"MPS does not answer: {error.message}")
            return Burial(device_gone=False)
        finally:
            self._functions.pop(worker.pid, None)
            self._fates.pop(worker.pid, None)
            self._taken_out.discard(worker.pid)

    async def gone(self, worker: Worker) -> bool:
        """Waits until a dead worker is no client any more. False: it still may be one."""
        gone = await self._mps.end_client(worker.pid, _GONE_TIMEOUT_S)
        if not gone:
            self._event(
                self._name,
                EventKind.DEVICE,
                f"MPS does not say that worker {worker.pid} is gone; the slots that it ran stay out"
                " of use until its function is loaded anew",
            )
        return gone

    async def look(self) -> None:
        """Deals with a fault that no worker has noticed.

        Raises:
            GsliceError: MPS does not answer.
        """
        if self.shared and await self._mps.faulted():
            await asyncio.shield(self._fault())

    async def settled(self) -> None:
        """Waits while a fault is being dealt with."""
        if self._recovery is not None and not self._recovery.done():
            await asyncio.wait([self._recovery])

    async def _reached_all(self, worker: Worker, how: str) -> bool:
        """Whether what a worker died of reached every client."""
        if how == _DEVICE_LOST and worker.pid not in self._taken_out:
            return await self._mps.shows_fault()
        return await self._mps.faulted()

    def _fault(self, *dead: int) -> asyncio.Task[list[int]]:
        """What follows a fault; one that is being dealt with is not dealt with twice."""
        if self._recovery is None or self._recovery.done():
            self.faults += 1
            self._recovery = asyncio.get_running_loop().create_task(self._recover())
            self._recovery.add_done_callback(noted)
        for pid in (*dead, *(worker.pid for worker in self.sharing)):
            self._fates[pid] = self._recovery
        return self._recovery

    async def _recover(self) -> list[int]:
        """Ends every client, waits for a sound server. Returns the culprits, if they are known."""
        clients = dict(self._functions)
        what = "a fatal fault" if self._mps.alive else "the end of its MPS control daemon"
        workers = self.sharing
        guests = [program for program in self.programs if not program.note.spec.exclusive]
        deaths = [each.death for each in workers] + [each.death for each in guests]
        for worker in workers:
            worker.child.abort()
        for program in guests:
            program.abort()
        if deaths:
            await asyncio.wait(deaths)
        self._weights.drop()
        self.sound = await self._mps.recovered()
        culprits = await asyncio.to_thread(self._mps.culprits, clients)
        reached = {*clients.values(), *(program.note.spec.name for program in guests)}
        names = ", ".join(sorted(reached)) or "none"
        guilty = ", ".join(f"function {clients[pid]} (worker {pid})" for pid in culprits)
        self._event(
            self._name,
            EventKind.FAULT,
            f"{what} reached every function on it ({names}); they are started again; "
            + (f"MPS blames {guilty}" if guilty else "MPS's log blames nobody"),
        )
        if not self.sound:
            await self._mps.close()
        return culprits


def noted(task: asyncio.Task[Any]) -> None:
    """Takes note of how a task ended; whoever waits for it gets its error all the same."""
    if not task.cancelled():
        task.exception()
