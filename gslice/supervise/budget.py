"""What functions may take of the node: shared memory for segments, memory of device and host.

What a load needs is known from the last one of the same model. Then it is refused before it starts
if it does not fit; otherwise the device's limit is checked once its workers have measured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from gslice.control.memory import Room, refusal
from gslice.core.errors import GsliceError, ResourceExhausted
from gslice.core.figures import megabytes
from gslice.core.types import MemoryTaken
from gslice.device.memory import available_bytes
from gslice.supervise.program_note import program_of
from gslice.supervise.weights import added, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from gslice.core.types import FunctionSpec
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node
    from gslice.supervise.recall import Recall, Recalled
    from gslice.supervise.worker import Worker

_PARTS_MIN = 4


@dataclass(frozen=True)
class Need:
    """What somebody is about to take.

    Attributes:
        function: Whose name.
        device: Its device's name.
        memory: Of all that will be loaded, together.
        circumstances: Such as `shadow beside the primary`; may be empty.
    """

    function: str
    device: str
    memory: MemoryTaken
    circumstances: str = ""


@dataclass(frozen=True, eq=False)
class _Promise:
    """A need that was found to fit, and what its function had by then."""

    need: Need
    before: MemoryTaken


class Budget(Protocol):
    """What functions may take of the node."""

    def segment_bytes(self) -> int:
        """How large a new segment may be."""

    async def settle_memory(self, spec: FunctionSpec) -> None:
        """Checks the memory of all workers of some devices, as they reported it.

        Others are unloaded, if that helps.

        Args:
            spec: Of the function that was loaded there.

        Raises:
            ResourceExhausted: it is more than a device's limit.
        """

    def recalled(self, spec: FunctionSpec) -> Recalled | None:
        """What the last load of the same model showed."""

    def needed(self, spec: FunctionSpec, circumstances: str = "") -> list[Need]:
        """What all instances of a function will take, by device; none: nobody knows."""

    async def check(self, need: Need | None) -> None:
        """Checks that a need fits now.

        Raises:
            ResourceExhausted: it does not; the message has the arithmetic.
        """

    def promised(
        self, needs: Sequence[Need], *, evict: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Around a load: nobody else is given meanwhile what it needs.

        Args:
            needs: Empty: they are not known.
            evict: Others that may be are unloaded if it does not fit otherwise.

        Raises:
            ResourceExhausted: as of `check`, before anything is done.
        """


class NodeBudget:
    """The `Budget` of all functions of a node.

    Args:
        node: Its limits.
        functions: What runs, by name; read when asked.
        recall: What earlier loads showed.
    """

    def __init__(self, node: Node, functions: Mapping[str, Function], recall: Recall) -> None:
        self._node = node
        self._functions = functions
        self._recall = recall
        self._promises: set[_Promise] = set()
        self._deciding = asyncio.Lock()

    def segment_bytes(self) -> int:
        """A part of the pinned memory that leaves something for every function to come."""
        total = self._node.config.pinned_memory_bytes
        used = sum(d.segment.size_bytes for d in self._deployments() if d.segment is not None)
        part = total // max(_PARTS_MIN, len(self._functions))
        return max(0, min(part, (total - used) // 2))

    async def settle_memory(self, spec: FunctionSpec) -> None:
        """See `Budget.settle_memory`."""
        for device in spec.placed:
            if limit := self._node.device(device).memory_limit_bytes:
                async with self._deciding:
                    while (over := self._used_bytes(device).total() - limit) > 0:
                        if not await self._evict_one(spec.name, device, over):
                            break
            self.check_memory(device)

    def check_memory(self, device: str) -> None:
        """Raises ResourceExhausted if a device's workers take more than its limit."""
        limit = self._node.device(device).memory_limit_bytes
        used = self._used_bytes(device)
        if limit and used.total() > limit:
            parts = " + ".join(f"{name} {megabytes(size)}" for name, size in sorted(used.items()))
            raise ResourceExhausted(
                f"device {device}: workers take {parts} = {megabytes(used.total())}, "
                f"more than its memory limit of {megabytes(limit)}",
                hint="raise the limit, or unload a function",
            )

    def recalled(self, spec: FunctionSpec) -> Recalled | None:
        """See `Budget.recalled`."""
        return self._recall(spec)

    def needed(self, spec: FunctionSpec, circumstances: str = "") -> list[Need]:
        """See `Budget.needed`."""
        if spec.program is not None:
            reserved = self._reservation(spec)
            return [reserved] if reserved is not None else []
        found = (self._need(spec.placed_on((device,)), circumstances) for device in spec.placed)
        return [need for need in found if need is not None]

    async def check(self, need: Need | None) -> None:
        """See `Budget.check`."""
        await self._check(need, kept_goes=True)

    async def _check(self, need: Need | None, *, kept_goes: bool) -> None:
        if need is None:
            return
        for room, on_device in await self._rooms(need.device):
            if kept_goes:
                kept = self._kept(need.function, _device_of(room, need))
                freed_bytes = sum(size for _, _, size in kept)
                room = replace(room, free_bytes=room.free_bytes + freed_bytes)
            parts = need.memory.device_parts if on_device else need.memory.host_parts
            if told := refusal(parts, room, need.circumstances):
                raise ResourceExhausted(
                    f"function {need.function}: {told}",
                    hint="unload a function, or raise limits.memory where that is the limit",
                )

    @contextlib.asynccontextmanager
    async def promised(self, needs: Sequence[Need], *, evict: bool = False) -> AsyncIterator[None]:
        """See `Budget.promised`."""
        promises: list[_Promise] = []
        try:
            for need in needs:
                async with self._deciding:
                    promises.append(await self._promise(need, evict))
            yield
        finally:
            self._promises.difference_update(promises)

    # ---- parts -----------------------------------------------------------------------------

    def _need(self, spec: FunctionSpec, circumstances: str) -> Need | None:
        """What the instances on one device will take."""
        recalled = self.recalled(spec)
        if recalled is None:
            return None
        memory = sum([recalled.memory] * spec.instances, MemoryTaken())
        gpu = self._node.gpus.get(spec.device)
        if gpu is not None:
            memory = gpu.weights.to_come(spec, memory)
        return Need(spec.name, spec.device, memory, circumstances)

    async def _promise(self, need: Need, evict: bool) -> _Promise:
        while True:
            try:
                await self._check(need, kept_goes=False)
                break
            except ResourceExhausted:
                if not await self._make_room(need, evict):
                    raise
        promise = _Promise(need, self._measured(need))
        self._promises.add(promise)
        return promise

    def _reservation(self, spec: FunctionSpec) -> Need | None:
        """What a program may take beyond what the one before, which ends first, counts for."""
        function, limit = self._functions.get(spec.name), program_of(spec).memory_bytes
        if not limit:
            return None
        on_gpu, before = spec.device in self._node.gpus, 0
        if function is not None and _where(function) == spec.device:
            counted = self._program_memory(function)
            before = counted.device_bytes if on_gpu else counted.host_bytes
        more = max(0, limit - before)
        memory = MemoryTaken(weights_bytes=more) if on_gpu else MemoryTaken(process_bytes=more)
        return Need(spec.name, spec.device, memory)

    async def _make_room(self, need: Need, evict: bool) -> bool:
        """Unloads something where memory is missing; False: that would not suffice."""
        for room, on_device in await self._rooms(need.device):
            needed = need.memory.device_bytes if on_device else need.memory.host_bytes
            if (missing := needed - room.free_bytes) > 0:
                device = _device_of(room, need)
                return await self._evict_one(need.function, device, missing, functions_too=evict)
        return True  # somebody else has left meanwhile

    async def _evict_one(
        self, name: str, device: str, missing_bytes: int, *, functions_too: bool = True
    ) -> bool:
        """Ends a kept version, or unloads the function that was used longest ago.

        Nothing is done if all that may be ended would not suffice.

        Args:
            name: For whom.
            device: Where it is missing; empty: on the host.
            missing_bytes: How much.
            functions_too: Functions may be unloaded, not kept versions alone.
        """
        kept = self._kept(name, device)
        frees = {
            function: freed
            for function in self._functions.values()
            if functions_too and function.name != name and function.residency.evictable
            if (freed := self._frees_bytes(function, device))
        }
        of_others = sum(size for function, _, size in kept if function not in frees)
        if sum(frees.values()) + of_others < missing_bytes:
            return False
        for function, deployment, _ in kept:
            await function.kept.drop(deployment, f"its memory went to {name}")
            return True
        for function in sorted(frees, key=lambda each: each.residency.used_ms):
            if function.residency.evictable and await function.residency.evict(name):
                return True
        return False

    def _frees_bytes(self, function: Function, device: str) -> int:
        others = [f for f in self._functions.values() if f is not function]
        memory = added(_workers(others), _on(device, _workers([function])))
        return memory.device_bytes if device in self._node.gpus else memory.host_bytes

    def _kept(self, name: str, device: str) -> list[tuple[Function, Deployment, int]]:
        """What kept versions take of a device's memory, or of the host's.

        Args:
            name: Who needs it, and may have its own; of others not while they change.
            device: Empty: the host.

        Returns:
            Each with its size; first those of the function that was used longest ago, and of each
            its oldest.
        """
        keeping = (function for function in self._functions.values() if function.kept.warm)
        functions = sorted(keeping, key=lambda each: each.residency.used_ms)
        on_gpu = device in self._node.gpus
        found: list[tuple[Function, Deployment, int]] = []
        for function in functions:
            if function.name != name and function.lock.locked():
                continue
            for deployment in reversed(function.kept.warm):
                others = (d for d in self._deployments() if d is not deployment)
                there = _on(device, deployment.workers)
                memory = added((w for d in others for w in d.workers), there)
                size = memory.device_bytes if on_gpu else memory.host_bytes
                found.append((function, deployment, size))
        return [each for each in found if each[2]]

    async def _rooms(self, device: str) -> list[tuple[Room, bool]]:
        """What is left where a function of a device takes memory, and whether that is a GPU's."""
        limit, gpu = self._node.device(device).memory_limit_bytes, self._node.gpus.get(device)
        rooms: list[tuple[Room, bool]] = []
        if gpu is not None:
            with contextlib.suppress(GsliceError):  # whoever starts a worker on it is told
                await gpu.ready()
                await gpu.read()
        to_come = sum((self._to_come(p) for p in self._promises_on(device)), MemoryTaken())
        # Of a GPU all is counted: a command may take what it was promised long after it started.
        if whole := limit or (gpu.facts.memory_bytes if gpu is not None else 0):
            taken = to_come.device_bytes if gpu is not None else to_come.host_bytes
            free_bytes = whole - self._used_bytes(device).total() - taken
            rooms.append((Room(device, free_bytes, limit), gpu is not None))
        if gpu is not None and gpu.memory_free_bytes is not None:
            rooms.append((Room(device, gpu.memory_free_bytes - to_come.device_bytes), True))
        on_host = sum(self._to_come(promise).host_bytes for promise in self._promises)
        on_host += sum(self._unused_bytes(function) for function in self._functions.values())
        rooms.append((Room("the node", available_bytes() - on_host), False))
        return rooms

    def _promises_on(self, device: str) -> list[_Promise]:
        return [promise for promise in self._promises if promise.need.device == device]

    def _to_come(self, promise: _Promise) -> MemoryTaken:
        """What was promised and is not taken yet."""
        had, has = vars(promise.before), vars(self._measured(promise.need))
        wanted = vars(promise.need.memory)
        return MemoryTaken(**{p: max(0, had[p] + wanted[p] - has[p]) for p in wanted})

    def _measured(self, need: Need) -> MemoryTaken:
        """What its function has by now where it is about to take more."""
        function = self._functions.get(need.function)
        if function is None:
            return MemoryTaken()
        stands = [worker for worker, name in self._node.stands.items() if name == function.name]
        there = _on(need.device, [*_workers([function]), *stands])
        return together(there) + self._program_memory(function)

    def _used_bytes(self, device: str) -> Counter[str]:
        """What workers of a device took of its memory: each function what those before did not."""
        on_gpu = device in self._node.gpus
        used: Counter[str] = Counter()
        before: list[Worker] = []
        # Deployments of the same name, while one is loaded anew.
        running = [(d.spec.name, d.workers) for d in self._deployments()]
        measured = [(name, [worker]) for worker, name in self._node.stands.items()]
        for name, workers in running + measured:
            if there := _on(device, workers):
                taken = added(before, there)
                used[name] += taken.device_bytes if on_gpu else taken.host_bytes
                before += there
        for function in self._functions.values():
            if _where(function) == device:
                memory = self._program_memory(function)
                taken_bytes = memory.device_bytes if on_gpu else memory.host_bytes
                if taken_bytes:
                    used[function.name] += taken_bytes
        return used

    def _program_memory(self, function: Function) -> MemoryTaken:
        """What counts as a command's: also between a death and the next start."""
        if function.program is not None:
            return function.program.memory
        if function.spec.program is None or not function.accepting:
            return MemoryTaken()
        limit = program_of(function.spec).memory_bytes
        on_gpu = function.spec.device in self._node.gpus
        return MemoryTaken(weights_bytes=limit) if on_gpu else MemoryTaken(process_bytes=limit)

    def _unused_bytes(self, function: Function) -> int:
        """What a command may take of the host, and has not."""
        held = function.program.resident_bytes if function.program is not None else 0
        return max(0, self._program_memory(function).host_bytes - held)

    def _deployments(self) -> list[Deployment]:
        return [d for function in self._functions.values() for d in function.deployments]


def _device_of(room: Room, need: Need) -> str:
    """The device whose memory a room is; empty: the host's."""
    return need.device if room.where == need.device else ""


def _where(function: Function) -> str:
    """The device of what runs, which a function that is loaded anew may be about to leave."""
    return (function.program.note if function.program is not None else function).spec.device


def _on(device: str, workers: Iterable[Worker]) -> list[Worker]:
    """Those of a device; empty: all."""
    return [worker for worker in workers if device in ("", worker.device)]


def _workers(functions: Iterable[Function]) -> list[Worker]:
    return [w for function in functions for d in function.deployments for w in d.workers]
