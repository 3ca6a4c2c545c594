"""The workers of one deployment on all of its devices, which pull from one segment."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from gslice.supervise.instances import Instances
from gslice.supervise.news import unheard
from gslice.supervise.tasks import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gslice._native import Segment
    from gslice.core.types import FunctionSpec
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.node import Node
    from gslice.supervise.worker import Worker


class Replicas:
    """See the module.

    Args:
        node: The node.
        spec: What they serve; each worker is told the device that it is on.
        frontends: Who leases slots and takes answers.
        on_lost: As of `Instances`, after the device on which the worker was.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        frontends: Frontends,
        on_lost: Callable[[str, str, bool, float], None],
    ) -> None:
        self._node = node
        self._spec = spec
        self._frontends = frontends
        self._on_lost = on_lost
        self._segment: Segment | None = None
        self._by_device: dict[str, Instances] = {}
        for device in spec.placed:
            self.on(device)

    def __iter__(self) -> Iterator[Worker]:
        return iter([worker for each in self._by_device.values() for worker in each])

    def __len__(self) -> int:
        return sum(len(each) for each in self._by_device.values())

    @property
    def segment(self) -> Segment | None:
        """What all are attached to; None until their signature is known."""
        return self._segment

    @segment.setter
    def segment(self, segment: Segment | None) -> None:
        ledgers = self._node.ledgers
        if segment is not None:
            ledgers.open(segment, self._spec)
        if self._segment is not None:
            ledgers.close(self._spec.name, self._segment)
        self._segment = segment
        for each in self._by_device.values():
            each.segment = segment

    @property
    def attached(self) -> list[Worker]:
        """Those that have the segment."""
        return [worker for worker in self if worker.instance >= 0]

    def on(self, device: str) -> Instances:
        """The workers on a device, of which there may be none yet."""
        if device not in self._by_device:
            spec = self._spec.placed_on((device,))
            on_lost = functools.partial(self._on_lost, device)
            made = Instances(self._node, spec, self._frontends, on_lost)
            made.segment = self._segment
            self._by_device[device] = made
        return self._by_device[device]

    def of(self, worker: Worker) -> Instances:
        """Those among which a worker is."""
        return self.on(worker.device)

    def pulls(self, worker: Worker) -> bool:
        """See `Instances.pulls`."""
        return self.of(worker).pulls(worker)

    def pulling(self, device: str) -> int:
        """How many on a device may claim requests."""
        there = self.on(device)
        return sum(there.pulls(worker) for worker in there)

    def kill_hung(self, now_ns: int) -> None:
        """See `Instances.kill_hung`."""
        for each in self._by_device.values():
            each.kill_hung(now_ns)

    async def discard(self, worker: Worker) -> None:
        """See `Instances.discard`."""
        await self.of(worker).discard(worker)

    async def let_go(self, old: Worker, stage: Callable[[str, str], None] = unheard) -> None:
        """Ends one that may not pull any more, when it has finished what it claimed."""
        stage("drain", "")
        drained = await old.drain(self._node.config.drain_timeout_us / 1e6)
        stage("exit", "" if drained else "it did not finish in time; others run what it had")
        await self.of(old).stop(old)

    async def drain(self, timeout_s: float) -> bool:
        """Has all finish what they have claimed; from now on none outlives the daemon."""
        self._node.ledgers.note(self._spec.name)
        return all(await run_all(worker.drain(timeout_s) for worker in self))

    async def discard_all(self) -> None:
        """Ends all, of which none served."""
        await run_all(self.discard(worker) for worker in self)

    async def stop_all(self) -> None:
        """Ends all in order."""
        self._node.ledgers.note(self._spec.name)
        await self.settle()
        await run_all(self.of(worker).stop(worker) for worker in self)

    async def kill_all(self) -> None:
        """Ends all at once."""
        await self.settle()
        await run_all(self.of(worker).kill(worker) for worker in self)

    async def settle(self) -> None:
        """See `Instances.settle`."""
        await run_all(each.settle() for each in self._by_device.values())

    def forget_weights(self) -> None:
        """See `Instances.forget_weights`, where nobody is left."""
        for each in self._by_device.values():
            if not len(each):
                each.forget_weights()
