"""What an engine is: it loads a function, says its signature, prepares callables for batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gslice.core.errors import LoadFailed
from gslice.core.types import Signature

if TYPE_CHECKING:
    from gslice._native import Batch, CudaGraph, WarmBatch
    from gslice.core.types import FunctionSpec, TensorSpec
    from gslice.device.cpu import CpuDevice
    from gslice.worker.gpu import GpuDevice

    Call = Callable[[Batch], None]
    Device = CpuDevice | GpuDevice

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

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """Loads the function; once.

        Args:
            spec: What to load.
            device: Where; says how many threads it may use.
            known: What an earlier load of the same function told; what only a run shows need not be
                tried again.

        Raises:
            LoadFailed: It cannot be served; the message says why.
        """

    def prepare(self, lane: int, bucket: int) -> Call | CudaGraph:
        """The callable that runs a batch of `bucket` rows in a lane, or the graph of its work.

        A callable fills the batch's outputs: by pointer where `output_ptr` is not 0, else by
        `set_output`, or on a GPU by `set_output_ptr`; there it only enqueues, on the batch's
        stream. What it raises fails that batch only.
        """

    def close(self) -> None:
        """Gives everything back; nothing runs any more."""


@runtime_checkable
class Captures(Protocol):
    """An engine that records its work on a GPU as graphs."""

    def capture(self, batch: WarmBatch) -> None:
        """Records the batch, which has just run, for `prepare` to hand out from now on.

        A batch that cannot be recorded goes on as a call; the log says why.
        """

    def callable(self, lane: int, bucket: int) -> Call:
        """What `prepare` hands out, as a call: of a graph, its replay from Python."""


@runtime_checkable
class KeepsLanes(Protocol):
    """An engine that keeps something for each lane of a GPU."""

    def forget(self, lanes: Collection[int]) -> None:
        """Gives that back of lanes that are gone; others may come in their place."""


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


def refuse_text(spec: FunctionSpec, tensors: Iterable[TensorSpec]) -> None:
    """BYTES have no form on a GPU.

    Raises:
        LoadFailed: The function takes or gives them.
    """
    for tensor in tensors:
        if tensor.dtype == "BYTES":
            raise LoadFailed(
                f"function {spec.name}: tensor {tensor.name!r} is BYTES, which stay on the CPU",
                hint="put this function on `device: cpu`",
            )
