"""Where a batch's tensors lie, as torch sees them: without a copy, on the CPU device or a GPU."""

from __future__ import annotations

import ctypes
import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch

from gslice.worker.engines.torch_types import TORCH_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gslice._native import Batch
    from gslice.core.types import TensorSpec
    from gslice.worker.shapes import Shape


class Graph(Protocol):
    """A batch's work, recorded.

    Attributes:
        executable: Its CUgraphExec, which the pump launches by itself; 0: only `replay` runs it.
    """

    executable: int

    def replay(self) -> None:
        """Enqueues it on the current stream."""


class Memory(Protocol):
    """The memory that batches lie in, and the streams that work on it.

    Attributes:
        device: What the model must be on.
        inputs_are_shared: Whether inputs lie where their requests came to, not in a copy.
    """

    device: torch.device
    inputs_are_shared: bool

    def view(self, pointer: int, tensor: TensorSpec, shape: Shape) -> torch.Tensor:
        """The tensor that lies at a pointer; valid as long as the batch."""

    def running(self, batch: Batch) -> AbstractContextManager[object]:
        """Inside, torch enqueues on the stream of the batch's lane."""

    def give(self, batch: Batch, index: int, tensor: TensorSpec, result: torch.Tensor) -> None:
        """Hands over an output whose shape only the run shows: contiguous, of the right type."""


class GpuMemory(Memory, Protocol):
    """Memory of a GPU, whose work can be recorded."""

    def trim(self) -> None:
        """Gives back what torch keeps of it for later."""

    def capture(self, batch: Batch, call: Callable[[Batch], None]) -> Graph:
        """Records what `call` enqueues for a batch, instead of running it."""

    def forget(self, lanes: Collection[int]) -> None:
        """The graphs of these lanes are gone; others may come in their place."""


class HostMemory:
    """Slots and lane buffers of the CPU device."""

    device = torch.device("cpu")
    inputs_are_shared = True

    def view(self, pointer: int, tensor: TensorSpec, shape: Shape) -> torch.Tensor:
        """See `Memory.view`."""
        dtype, count = TORCH_TYPES[tensor.dtype], math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        memory = (ctypes.c_byte * (count * dtype.itemsize)).from_address(pointer)
        return torch.frombuffer(memory, dtype=dtype).view(shape)

    def running(self, batch: Batch) -> AbstractContextManager[object]:
        """There are no streams."""
        return nullcontext()

    def give(self, batch: Batch, index: int, tensor: TensorSpec, result: torch.Tensor) -> None:
        """See `Memory.give`."""
        plain = result.view(torch.uint16) if tensor.dtype == "BF16" else result  # NumPy has none
        batch.set_output(index, plain.numpy())
