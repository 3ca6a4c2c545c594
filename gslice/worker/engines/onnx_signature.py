"""The signature of an ONNX model, from what onnxruntime says of its inputs and outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gslice.core.errors import LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, fixed_batch, is_batchable
from gslice.worker.engines.stated import Stated
from gslice.worker.shapes import Shape, candidates

_log = logging.getLogger(__name__)

DTYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

Probe = Callable[[Sequence[Shape]], list[Shape]]


@dataclass(frozen=True)
class Node:
    """An input or output as the model declares it.

    Attributes:
        name: Its name.
        dtype: A KServe data type.
        shape: A number where the length is fixed; a name or None where it is not. Empty for a
            scalar, and also for an output of which the model says no shape at all.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, spec: FunctionSpec, kind: str, value: Any) -> Node:
        """From an onnxruntime NodeArg.

        Raises:
            LoadFailed: KServe has no such type.
        """
        dtype = DTYPES.get(value.type)
        if dtype is None:
            raise LoadFailed(
                f"function {spec.name}: {kind} {value.name!r} is of type {value.type}, "
                "which cannot be served",
                hint="export the model with plain tensors (for scikit-learn: zipmap=False)",
            )
        # Some exporters write -1 where ONNX wants a name or nothing.
        shape = (None if isinstance(d, int) and d < 0 else d for d in value.shape)
        return cls(value.name, dtype, tuple(shape))

    @property
    def dims(self) -> Shape:
        """Its shape with -1 where any length goes."""
        return tuple(d if isinstance(d, int) else -1 for d in self.shape)

    def spec(self, dims: Shape | None = None) -> TensorSpec:
        """The tensor, with other dims if given."""
        return TensorSpec(self.name, self.dtype, self.dims if dims is None else dims)


def signature(
    spec: FunctionSpec,
    inputs: Sequence[Node],
    outputs: Sequence[Node],
    probe: Probe,
    known: Signature | None = None,
) -> Signature:
    """Decides what is a batch and what is not.

    A model is batchable when every input and output has a first dimension without a fixed length
    and these go together: they have one name, or a run with two and with three rows shows it.
    `tensors: {batched: false}` says that they are no rows all the same, `true` that they are.

    Args:
        spec: The function.
        inputs: As declared.
        outputs: As declared.
        probe: Runs zeros of the given input shapes and returns the shapes of the outputs.
        known: What an earlier load found. If the model declares the same, nothing is probed: that
            takes the time of several requests.

    Raises:
        LoadFailed: The function asks for batches that the model does not allow.
    """
    batched = Stated(spec).batched
    ins = tuple(node.spec() for node in inputs)
    fixed = fixed_batch(spec, ins, tuple(node.spec() for node in outputs))
    if fixed is not None and batched is not False:
        return fixed
    if known is not None and _declare(inputs, known.inputs) and _declare(outputs, known.outputs):
        return replace(known, buckets=())  # those of a GPU are not the model's
    outs = tuple(node.spec() for node in _with_ranks(inputs, outputs, probe))
    batchable = (
        batched is not False
        and is_batchable(ins, outs)
        and (batched or _one_name(inputs, outputs) or _rows_follow(inputs, probe))
    )
    return Signature(ins, outs, (spec.batch_max or DEFAULT_ROWS_MAX) if batchable else 0)


def _declare(nodes: Sequence[Node], tensors: Sequence[TensorSpec]) -> bool:
    """Whether these nodes may have been found to be these tensors."""
    return len(nodes) == len(tensors) and all(
        node.spec(None if node.shape else tensor.dims) == tensor
        for node, tensor in zip(nodes, tensors, strict=True)
    )


def _with_ranks(inputs: Sequence[Node], outputs: Sequence[Node], probe: Probe) -> list[Node]:
    """Outputs of which the model tells no shape get the rank that a run shows."""
    if all(node.shape for node in outputs):
        return list(outputs)
    shapes = _first_success(inputs, 1, probe)
    if shapes is None:
        return list(outputs)
    return [
        node if node.shape else Node(node.name, node.dtype, (None,) * len(shape))
        for node, shape in zip(outputs, shapes, strict=True)
    ]


def _one_name(inputs: Sequence[Node], outputs: Sequence[Node]) -> bool:
    first = {node.shape[0] if node.shape else None for node in (*inputs, *outputs)}
    return len(first) == 1 and None not in first


def _rows_follow(inputs: Sequence[Node], probe: Probe) -> bool:
    for rows in (2, 3):
        shapes = _first_success(inputs, rows, probe)
        if shapes is None or any(not shape or shape[0] != rows for shape in shapes):
            return False
    return True


def _first_success(inputs: Sequence[Node], rows: int, probe: Probe) -> list[Shape] | None:
    """Output shapes of the first guess that runs; rows only where the first dimension is free."""
    tensors = [node.spec() for node in inputs]
    free = all(t.dims and t.dims[0] == -1 for t in tensors)
    for shapes in candidates(tensors, rows, free):
        try:
            return probe(shapes)
        except Exception as error:
            _log.debug("a probe with shapes %s failed: %s", shapes, error)
    return None
