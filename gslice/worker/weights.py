"""Where a worker's weights lie on its GPU: in a block that all workers of the model there share.

The first worker of a model makes the block and fills it; the daemon holds its descriptor and gives
it to every later one, which maps it read-only. What stands against that costs a copy of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gslice._native import CudaDevice, WeightBlock
from gslice.core.errors import GsliceError
from gslice.ipc.messages import Weights

_log = logging.getLogger(__name__)

ALIGNMENT_BYTES = 256  # what cudaMalloc promises, and kernels rely on


@dataclass(frozen=True)
class Piece:
    """One tensor of a model, as it is to lie in memory.

    Attributes:
        name: In the model; unique.
        dtype: As its library calls it.
        shape: Its shape.
        strides: In elements; nothing lies between them.
        size_bytes: Of all of it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size_bytes: int


class Placed:
    """Pieces in a block of device memory.

    Attributes:
        pointer: Where the block begins.
        size_bytes: Of the block, as far as pieces lie in it.
        offsets: Where in it each piece begins.
    """

    def __init__(self, block: WeightBlock, offsets: Sequence[int], size_bytes: int) -> None:
        self.pointer = block.pointer
        self.size_bytes = size_bytes
        self.offsets = offsets
        self._block = block

    def write(self, index: int, data: np.ndarray) -> None:
        """Copies a piece from host memory; only while the block is being filled."""
        self._block.write(self.offsets[index], np.ascontiguousarray(data).reshape(-1).view("u1"))


class WeightStore:
    """See the module. For one load of one function.

    Args:
        cuda: The open device.
        model: What a block that is made here is told as; empty: it is to be nobody else's.
        offered: The block that another worker has made; None: there is none.
        fd: Its descriptor; stays the caller's.

    Attributes:
        shared: The block, if other workers can have it too; None: there is none by now.
        made_bytes: What it took of the GPU, if it was made here.
        own: Why the worker has a copy of its own; empty: it has none.
    """

    def __init__(
        self, cuda: CudaDevice, model: str = "", offered: Weights | None = None, fd: int = -1
    ) -> None:
        self.shared: Weights | None = None
        self.made_bytes = 0
        self.own = ""
        self._cuda = cuda
        self._model = model
        self._offered = offered
        self._offered_fd = fd
        self._block: WeightBlock | None = None

    @property
    def fd(self) -> int:
        """The block's descriptor, which stays its own; -1: there is none to hand on."""
        return self._block.fd if self._block is not None and self.shared is not None else -1

    def place(self, pieces: Sequence[Piece], fill: Callable[[Placed], None]) -> Placed | None:
        """Puts a model's tensors into memory of the device; once.

        Args:
            pieces: All of them.
            fill: Called if they are not there yet; must have enqueued every copy when it returns,
                on the legacy default stream if not at once.

        Returns:
            Where they are: read-only, for as long as the store is open. None: there are no pieces.

        Raises:
            ResourceExhausted: The device has no memory left.
        """
        if not pieces:
            return None
        offsets, size_bytes = _laid_out(pieces)
        digest = _digest(pieces, offsets)
        if self._take(digest, size_bytes):
            assert self._block is not None
            return Placed(self._block, offsets, size_bytes)
        self._block = self._made(size_bytes)
        placed = Placed(self._block, offsets, size_bytes)
        fill(placed)
        self._seal(self._block, digest)
        if self.own:
            _log.warning("the weights are a copy of this worker's own: %s", self.own)
        return placed

    def close(self) -> None:
        """Gives the memory back, as far as it is this worker's; nothing uses it any more."""
        self.shared = None
        if self._block is not None:
            self._block.close()
            self._block = None

    def _take(self, digest: str, size_bytes: int) -> bool:
        """Maps the block that was offered, if it is of this model."""
        offered = self._offered
        if offered is None:
            return False
        if offered.digest != digest or offered.size_bytes < size_bytes:
            self.own = "the tensors of the model are not those that are shared"
            return False
        try:
            self._block = WeightBlock.map(self._cuda, self._offered_fd, offered.size_bytes)
        except GsliceError as error:
            self.own = error.message
            return False
        self.shared = offered
        _log.info("%d bytes of weights are shared with other workers", offered.size_bytes)
        return True

    def _made(self, size_bytes: int) -> WeightBlock:
        if self._model and not self.own:
            try:
                return WeightBlock.create(self._cuda, size_bytes)
            except GsliceError as error:
                self.own = error.message
        return WeightBlock.create_private(self._cuda, size_bytes)

    def _seal(self, block: WeightBlock, digest: str) -> None:
        try:
            block.seal()
        except GsliceError as error:  # what can be written to is nothing to share
            self.own = self.own or error.message
            return
        if block.fd >= 0:
            self.made_bytes = block.size_bytes
            self.shared = Weights(self._model, block.size_bytes, digest, os.getpid())


def _laid_out(pieces: Sequence[Piece]) -> tuple[list[int], int]:
    """Where each piece begins, and where the last one ends."""
    offsets, end = [], 0
    for piece in pieces:
        begin = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        offsets.append(begin)
        end = begin + piece.size_bytes
    return offsets, end


def _digest(pieces: Sequence[Piece], offsets: Sequence[int]) -> str:
    told = [[*vars(piece).values(), offset] for piece, offset in zip(pieces, offsets, strict=True)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
