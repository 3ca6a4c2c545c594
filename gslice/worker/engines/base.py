"""What an engine is: it loads a function, says its signature, prepares callables for batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gslice.core.types import Signature

if TYPE_CHECKING:
    from gslice._native import Batch
    from gslice.core.types import FunctionSpec, TensorSpec
    from gslice.device.cpu import CpuDevice

    Call = Callable[[Batch], None]

DEFAULT_ROWS_MAX = 16
"""Rows in a batch of a batchable function that asks for no limit of its own."""


class Engine(Protocol):
    """One loaded copy of a function.

    Attributes:
        native: The pump runs it itself, without a call into Python; `prepare` is never used.
        trusts_zeros: A batch of zeros that fails shows a broken model, not just odd data.
        threads: Most that compute at once, fixed at load; 0: as many as the user's code makes.
    """

    native: bool
    trusts_zeros: bool
    threads: int

    def load(self, spec: FunctionSpec, device: CpuDevice) -> Signature:
        """Loads the function; once.

        Args:
            spec: What to load.
            device: Where; says how many threads the share is worth.

        Raises:
            LoadFailed: It cannot be served; the message says why.
        """

    def prepare(self, lane: int, bucket: int) -> Call:
        """The callable that runs a batch of `bucket` rows in a lane.

        It fills the batch's outputs: by pointer where `output_ptr` is not 0, else by
        `set_output`. What it raises fails that batch only.
        """

    def close(self) -> None:
        """Gives everything back; nothing runs any more."""


def is_batchable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether every tensor has -1 as its first dimension, so that it can be one of rows."""
    return bool(inputs) and all(t.dims and t.dims[0] == -1 for t in (*inputs, *outputs))


def fixed_batch(
    spec: FunctionSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Signature | None:
    """A model of a fixed batch size serves smaller batches too, padded to its one bucket.

    Returns:
        None: its size is not the batch that the function asks for.
    """
    rows = spec.batch_max
    tensors = (*inputs, *outputs)
    if rows < 1 or not inputs or any(not t.dims or t.dims[0] != rows for t in tensors):
        return None

    def free_rows(tensor: TensorSpec) -> TensorSpec:
        return replace(tensor, dims=(-1, *tensor.dims[1:]))

    return Signature(
        tuple(free_rows(tensor) for tensor in inputs),
        tuple(free_rows(tensor) for tensor in outputs),
        rows,
        (rows,),
    )
