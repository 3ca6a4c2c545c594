"""A worker as the daemon sees it: one instance of one function, and the orders that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gslice.core.errors import ChannelClosed, DeadlineExceeded, GsliceError, LoadFailed
from gslice.core.types import MemoryTaken
from gslice.ipc.messages import (
    AddFrontend,
    Attach,
    Drain,
    Exit,
    GpuGrant,
    Load,
    Loaded,
    Measure,
    Measured,
    Ok,
    Ready,
    RemoveFrontend,
    SetShare,
    ShareSet,
)
from gslice.ipc.process import resident_bytes
from gslice.supervise.logs import last_line, shortened
from gslice.supervise.worker_launch import start_process

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from gslice._native import Segment, TurnBoard
    from gslice.core.types import FunctionSpec, Signature
    from gslice.ipc.messages import Message, Weights, WorkerState
    from gslice.supervise.child import Child
    from gslice.supervise.node import Node
    from gslice.supervise.weights import Block

LOAD_TIMEOUT_S = 600.0
ORDER_TIMEOUT_S = 10.0
EXIT_TIMEOUT_S = 5.0
GPU_EXIT_TIMEOUT_S = 30.0  # it unpins GiBs, and destroys graphs and contexts
HOSTED_EXIT_TIMEOUT_S = 120.0  # whoever is killed in a host takes all along
_A = TypeVar("_A")


class Worker:
    """One instance and the process it lives in. Made by `start`, or from an adopted child.

    Attributes:
        device: The name of its device.
        seat: As of `Load`, where it is in a host.
        instance: Its index in the segment's instance table; -1 before it is attached.
        turn: Its entry on its device's turn board; -1 before it is attached.
        share_percent: The share last ordered; before it is loaded, the one that it starts with.
        share_effective_percent: The share as its limiter read it back.
        limiter: What enforces the share.
        threads: Most that its engine computes with at once; 0: as many as the user's code makes.
        memory: What it takes, as it measured; of its context, as the daemon did.
        prepared_us: How long its last change of share in place was prepared.
        inherited: An earlier daemon started it, perhaps with other code.
        weights: Those that it shares with others; None: it has a copy of its own, or none.
        own_weights: Why it has a copy of its own; empty: it has none, or none were asked for.
        made_bytes: What making shared weights took of its GPU.
        timed: What it timed of the batches that were asked for when it was attached.
        ready: It has warmed up, its pump runs, and nothing has taken its place.
        preparing: It loads or warms up, and hears nothing meanwhile.
        draining: Another has taken its place; it finishes what it has.
        expected_to_end: Its death is no accident.
        exit_timeout_s: How long it may take to end in order.
        explain_death: Says more of how it died, where the kernel tells.
        before_kill: Takes its work off its device, which a kill may leave in disorder.
    """

    def __init__(self, child: Child, log: Path, device: str) -> None:
        self.child = child
        self.device = device
        self.log = log
        self.instance = self.turn = -1
        self.seat = 0
        self.share_percent = 0.0
        self.share_effective_percent = 0.0
        self.limiter = "none"
        self.threads = 0
        self.memory = MemoryTaken()
        self.inherited = False
        self.weights: Weights | None = None
        self.own_weights = ""
        self.made_bytes = 0
        self.timed: list[Measured] = []
        self.prepared_us = 0.0
        self.ready = False
        self.preparing = False
        self.draining = False
        self.expected_to_end = False
        self.exit_timeout_s = EXIT_TIMEOUT_S
        self.explain_death: Callable[[str], str] = str
        self.before_kill: Callable[[], Awaitable[None]] | None = None

    @classmethod
    async def start(
        cls, node: Node, spec: FunctionSpec, environment: Mapping[str, str] | None = None
    ) -> Worker:
        """Takes a spare, or starts an empty worker.

        Args:
            node: The node.
            spec: Of its function, on its device.
            environment: What binds it to its device; wins over the function's own.

        Raises:
            Unavailable: the process did not come up.
        """
        log, environment = node.log_path(spec.name), environment or {}
        user = node.users.get(spec.device)
        child = await node.spares.take(spec, environment)
        if child is None:
            environment = {**spec.environment, **environment}
            child = await start_process(node, log, environment, user)
        return cls(child, log, spec.device)

    @classmethod
    async def start_in_host(
        cls, node: Node, spec: FunctionSpec, environment: Mapping[str, str]
    ) -> Worker:
        """Has an empty worker in the host of the function's GPU.

        Args:
            node: The node.
            spec: Of its function, on its device.
            environment: What binds a host to the GPU.

        Raises:
            GsliceError: it did not come up.
        """
        child = await node.hosts.lodge(spec.device, spec.name, environment)
        return cls(child, node.hosts.log_of(spec.device), spec.device)

    @classmethod
    def adopted(cls, child: Child, state: WorkerState, log: Path) -> Worker:
        """A worker that was serving already."""
        assert state.spec is not None
        worker = cls(child, log, state.spec.device)
        worker.instance, worker.turn = state.instance, state.turn
        worker.share_percent = state.share_percent or state.share_effective_percent
        worker.share_effective_percent = state.share_effective_percent
        worker.limiter = state.limiter
        worker.threads = state.threads
        worker.memory = state.memory
        worker.weights = state.weights
        worker.seat = state.seat
        worker.inherited = worker.ready = True
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.process.pid

    @property
    def hosted(self) -> bool:
        """Whether it is one of several in its process, which its end leaves alone."""
        return self.child.is_lodger

    @property
    def resident_bytes(self) -> int:
        """Host memory that it takes now; of a process that is not its own, what it measured."""
        return self.memory.host_bytes if self.hosted else resident_bytes(self.pid)

    @property
    def death(self) -> asyncio.Future[str]:
        """Resolves when the process has died."""
        return self.child.process.death

    def use_gpu(self, before_kill: Callable[[], Awaitable[None]]) -> None:
        """Has it treated as one that leaves disorder behind unless it ends in order."""
        self.before_kill = before_kill
        timeout_s = HOSTED_EXIT_TIMEOUT_S if self.hosted else GPU_EXIT_TIMEOUT_S
        self.exit_timeout_s = self.child.closed_timeout_s = timeout_s

    async def load(
        self,
        spec: FunctionSpec,
        limiter: str,
        cpus: list[int],
        gpu: GpuGrant | None = None,
        known: Signature | None = None,
        *,
        gently: bool = False,
        model: str = "",
        block: Block | None = None,
        brokered: bool = False,
    ) -> Signature:
        """Loads the model, with threads for its share; see `Load`.

        Args:
            spec: The function.
            limiter: What is to enforce the share.
            cpus: The cores of its device.
            gpu: Its GPU; None on a CPU device.
            known: Its signature, if another worker told it.
            gently: What serves meanwhile computes first.
            model: As what it tells of weights that it makes; their descriptor is the child's.
            block: The model's weights, if another worker has made them.
            brokered: Its threads are held to the share by us.

        Raises:
            LoadFailed: the engine's reason, or that the process died over it.
        """
        offered, fds = (block.weights, (block.fd,)) if block is not None else (None, ())
        share, seat = self.share_percent, self.seat
        grants = (gpu, gently, known, model, offered, seat, brokered)
        order = Load(spec, share, limiter, cpus, *grants)
        loaded = await self._prepare(spec, "loading", order, Loaded, fds)
        self.memory = loaded.memory
        self.weights, self.own_weights = loaded.weights, loaded.own_weights
        if loaded.weights is not None and loaded.weights != offered:
            self.made_bytes = loaded.weights.size_bytes
        return loaded.signature

    async def attach(
        self,
        spec: FunctionSpec,
        segment: Segment,
        instance: int,
        board: TurnBoard,
        eventfds: Mapping[int, int],
        timed: Sequence[int] = (),
    ) -> None:
        """Gives it the segment and a place on the board; it warms up and starts its pump.

        Args:
            spec: For the error.
            segment: The function's.
            instance: Its index there.
            board: Its device's.
            eventfds: The front-ends to wake, by index.
            timed: Batch sizes to time.

        Raises:
            LoadFailed: warming up failed, or the process died over it.
        """
        self.instance = instance
        self.turn = board.add(segment.generation, instance, self.pid, self.share_percent)
        for index, eventfd in eventfds.items():
            self.add_frontend(index, eventfd)
        order = Attach(instance, self.memory.context_bytes, list(timed), self.turn)
        fds = (segment.fd, board.fd)
        ready = await self._prepare(spec, "warming up", order, Ready, fds)
        self.share_effective_percent = ready.share_effective_percent
        self.limiter = ready.limiter
        self.threads = ready.threads
        self.memory = ready.memory
        self.timed = ready.timed
        self.ready = True

    async def measure(self, spec: FunctionSpec, order: Measure) -> Measured:
        """Has it time batches; it is loaded, and will never be attached.

        Args:
            spec: For the error.
            order: What to time.

        Raises:
            LoadFailed: the batches fail, or the process died over them.
        """
        measured = await self._prepare(spec, "being measured", order, Measured)
        self.share_effective_percent = measured.share_effective_percent
        self.limiter, self.threads = measured.limiter, measured.threads
        return measured

    def add_frontend(self, index: int, eventfd: int) -> None:
        """Tells it of a front-end that takes answers."""
        self.child.send(AddFrontend(index), (eventfd,))

    def remove_frontend(self, index: int) -> None:
        """Tells it that a front-end is gone."""
        self.child.send(RemoveFrontend(index))

    async def set_share(self, share_percent: float) -> None:
        """Changes the share in place and reads it back.

        Raises:
            GsliceError: it has the share that it had.
        """
        before, self.share_percent = self.share_percent, share_percent
        timeout_s = LOAD_TIMEOUT_S if self.hosted else ORDER_TIMEOUT_S  # it prepares graphs
        self.preparing = self.hosted
        try:
            reply = await self.child.request(SetShare(share_percent), ShareSet, timeout_s=timeout_s)
        except GsliceError as error:
            self.preparing = isinstance(error, DeadlineExceeded | ChannelClosed)
            self.share_percent = before
            raise
        self.preparing = False
        self.share_effective_percent = reply.share_effective_percent
        self.prepared_us = reply.prepared_us

    async def drain(self, timeout_s: float) -> bool:
        """Has it finish what it claimed.

        Returns:
            False: it did not get done in time, or died.
        """
        order = Drain(timeout_ms=round(timeout_s * 1000))
        try:
            await self.child.request(order, Ok, timeout_s=timeout_s + 1.0)
        except GsliceError:
            return False
        return True

    async def stop(self) -> None:
        """Ends it in order, or with force if need be."""
        self.expected_to_end = True
        self.child.send(Exit())
        if not await self.child.process.wait(self.exit_timeout_s):
            await self.kill()

    def detach(self) -> None:
        """Lets it run on, for a later daemon."""
        self.expected_to_end = True
        self.child.detach()

    async def kill(self) -> None:
        """Ends it at once."""
        self.expected_to_end = True
        await self.abort()
        await self.child.kill()

    async def abort(self) -> None:
        """Kills it, and leaves the rest to those who wait for its death."""
        if self.before_kill is not None and not self.death.done():
            await self.before_kill()
        self.child.abort()

    async def _prepare(
        self,
        spec: FunctionSpec,
        doing: str,
        order: Message,
        answer: type[_A],
        fds: tuple[int, ...] = (),
    ) -> _A:
        self.preparing = True  # also for who asks what it died of
        try:
            prepared = await self.child.request(order, answer, fds=fds, timeout_s=LOAD_TIMEOUT_S)
        except GsliceError as error:
            self.preparing = isinstance(error, DeadlineExceeded | ChannelClosed)
            raise await self._load_failed(spec, doing, error) from error
        self.preparing = False
        return prepared

    async def _load_failed(self, spec: FunctionSpec, doing: str, error: GsliceError) -> LoadFailed:
        if isinstance(error, ChannelClosed):
            # The channel closes a little earlier.
            await self.child.process.wait(self.exit_timeout_s)
            died = self.death.done()
            how = self.explain_death(self.death.result()) if died else "closed its channel"
            text, line = (
                f"function {spec.name}: its worker {how} while {doing}",
                last_line(self.log),
            )
            return LoadFailed(f"{text}: {line}" if line else text)
        if isinstance(error, DeadlineExceeded):
            return LoadFailed(f"function {spec.name}: {doing} took over {LOAD_TIMEOUT_S:g} s")
        return LoadFailed(shortened(error.message), hint=error.hint)
