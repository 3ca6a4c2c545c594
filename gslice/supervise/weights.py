"""The weights that workers of a GPU share: blocks of its memory, held open by their descriptors.

The daemon makes no CUDA context: a descriptor alone keeps a block, also when the worker that made
it has died. It is held as long as a function that uses it is loaded, and handed to every worker of
the same model that is started meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections import Counter
from typing import TYPE_CHECKING

from gslice.control.versions import model_settings
from gslice.core.types import MemoryTaken
from gslice.supervise.recall import file_state, model_files

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gslice.core.types import FunctionSpec
    from gslice.ipc.messages import Weights
    from gslice.supervise.worker import Worker


@dataclasses.dataclass(eq=False)
class Block:
    """Weights that are there.

    Attributes:
        weights: As their maker told of them.
        fd: What keeps them.
        holders: Who uses them.
    """

    weights: Weights
    fd: int
    holders: set[object]


class GpuWeights:
    """The blocks of one GPU.

    Attributes:
        epoch: Grows when all are dropped: what was made before is not to be kept after.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._blocks: dict[str, Block] = {}

    def hold(self, holder: object, model: str) -> Block | None:
        """The block of a model, which stays until the holder lets go of it; None: there is none."""
        block = self._blocks.get(model)
        if block is not None:
            block.holders.add(holder)
        return block

    def keep(self, holder: object, weights: Weights, fd: int, epoch: int) -> None:
        """Takes a block, and its descriptor, for the holder and those who come.

        Args:
            holder: Who uses it.
            weights: What a worker told.
            fd: Closed here if the block is not needed, or not trusted.
            epoch: As it was when the worker began.
        """
        if epoch != self.epoch or weights.model in self._blocks:
            os.close(fd)
            self.hold(holder, weights.model)
            return
        self._blocks[weights.model] = Block(weights, fd, {holder})

    def release(self, holder: object) -> None:
        """A holder uses none any more; what nobody holds goes when its last worker has ended."""
        for model, block in list(self._blocks.items()):
            block.holders.discard(holder)
            if not block.holders:
                self._forget(model)

    def drop(self, model: str = "") -> None:
        """Nothing is to be taken from a block again: what it holds may be wrong.

        Args:
            model: Whose; empty: all, after a fault that reached the whole GPU.
        """
        self.epoch += not model
        for each in [model] if model else list(self._blocks):
            self._forget(each)

    def size_bytes(self, spec: FunctionSpec) -> int:
        """Of the weights that a worker of a function would find here."""
        block = self._blocks.get(model_key(spec))
        return block.weights.size_bytes if block is not None else 0

    def to_come(self, spec: FunctionSpec, memory: MemoryTaken) -> MemoryTaken:
        """What loading takes, beside the weights that are here."""
        return dataclasses.replace(memory, shared_bytes=0) if self.size_bytes(spec) else memory

    def _forget(self, model: str) -> None:
        block = self._blocks.pop(model, None)
        if block is not None:
            os.close(block.fd)


def model_key(spec: FunctionSpec) -> str:
    """The same for functions whose weights are alike, as far as can be seen from outside."""
    states: list[tuple[int, ...]] = []
    for path in model_files(spec):
        with contextlib.suppress(OSError):  # the load will say so
            states.append(file_state(path))
    text = json.dumps([model_settings(spec), states], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def together(workers: Iterable[Worker]) -> MemoryTaken:
    """What workers take, with the weights that they share counted once."""
    return added((), workers)


def saved_bytes(workers: Iterable[Worker]) -> int:
    """What workers of one GPU would take beside, if each had the weights that it shares itself."""
    sizes = Counter(worker.weights for worker in workers if worker.weights is not None)
    return sum(weights.size_bytes * (users - 1) for weights, users in sizes.items())


def _blocks(workers: Iterable[Worker]) -> set[tuple[str, Weights | None]]:
    return {(worker.device, worker.weights) for worker in workers}


def added(there: Iterable[Worker], more: Iterable[Worker]) -> MemoryTaken:
    """What more workers take beside those that are there: shared weights of those are no more."""
    more = list(more)
    each = sum((worker.memory for worker in more), MemoryTaken())
    blocks = _blocks(more) - _blocks(there)
    shared_bytes = sum(weights.size_bytes for _, weights in blocks if weights is not None)
    return dataclasses.replace(each, shared_bytes=shared_bytes)
