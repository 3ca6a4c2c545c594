"""What an engine of TensorRT says of itself: its tensors, its rows, and the shapes it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gslice.core.errors import LoadFailed
from gslice.core.types import Signature, TensorSpec
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, fixed_batch, is_batchable
from gslice.worker.shapes import buckets

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec
    from gslice.worker.engines.tensorrt_api import TensorRt
    from gslice.worker.shapes import Shape

_DTYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
"""TensorRT's data type -> KServe's. It has others, which no client can send."""


@dataclass(frozen=True)
class Ranges:
    """A profile: the shapes that its kernels were chosen for.

    Attributes:
        index: Of the profile.
        least: Of each input, in the signature's order.
        most: Likewise.
    """

    index: int
    least: tuple[Shape, ...]
    most: tuple[Shape, ...]

    def takes(self, shapes: Sequence[Shape]) -> bool:
        """Whether a batch of these shapes can run with it."""
        return all(
            len(shape) == len(least)
            and all(a <= length <= b for a, length, b in zip(least, shape, most, strict=True))
            for shape, least, most in zip(shapes, self.least, self.most, strict=True)
        )

    @property
    def rows(self) -> tuple[int, int]:
        """The fewest and the most rows that all inputs take; they have such a dimension."""
        return max(shape[0] for shape in self.least), min(shape[0] for shape in self.most)


@dataclass(frozen=True)
class Description:
    """An engine as it is served.

    Attributes:
        signature: What it takes and gives.
        profiles: The narrowest first, so that the first that takes a batch is the best for it.
    """

    signature: Signature
    profiles: tuple[Ranges, ...]


def describe(library: TensorRt, spec: FunctionSpec, engine: Any) -> Description:
    """Reads an engine.

    Rows are a first dimension that no tensor fixes, unless `shapes` give lengths for it.

    Raises:
        LoadFailed: It has a tensor that cannot be served, or takes no batch that is asked for.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_input = library.api.TensorIOMode.INPUT
    inputs = [name for name in names if engine.get_tensor_mode(name) == is_input]
    ins = tuple(_tensor(library, spec, engine, name) for name in inputs)
    outs = tuple(_tensor(library, spec, engine, name) for name in names if name not in inputs)
    if not ins or not outs:
        raise LoadFailed(f"function {spec.name}: {spec.model} takes or gives no tensor")
    profiles = sorted(
        (_ranges(engine, inputs, index) for index in range(engine.num_optimization_profiles)),
        key=_width,
    )
    return Description(_signature(spec, ins, outs, profiles), tuple(profiles))


def _signature(
    spec: FunctionSpec,
    ins: tuple[TensorSpec, ...],
    outs: tuple[TensorSpec, ...],
    profiles: Sequence[Ranges],
) -> Signature:
    fixed = fixed_batch(spec, ins, outs)
    if fixed is not None:
        return fixed
    given = spec.args.get("shapes", {}).values()
    if not is_batchable(ins, outs) or any(shape["max"][0] != -1 for shape in given):
        return Signature(ins, outs)
    sizes = sorted({rows for profile in profiles for rows in _sizes(spec, *profile.rows)})
    if not sizes:
        taken = ", ".join("{} to {}".format(*profile.rows) for profile in profiles)
        raise LoadFailed(
            f"function {spec.name}: {spec.model} takes batches of {taken} rows, none of "
            f"{spec.batch_max}",
            hint="set batch.max to what it takes",
        )
    return Signature(ins, outs, sizes[-1], tuple(sizes))


def _sizes(spec: FunctionSpec, least: int, most: int) -> tuple[int, ...]:
    """Batch sizes of one profile that are worth preparing."""
    if spec.batch_max:
        most = min(most, spec.batch_max)
    elif least < most:
        most = min(most, max(least, DEFAULT_ROWS_MAX))
    return buckets(most, least) if least <= most else ()


def _tensor(library: TensorRt, spec: FunctionSpec, engine: Any, name: str) -> TensorSpec:
    def refuse(what: str, hint: str = "") -> LoadFailed:
        return LoadFailed(f"function {spec.name}: {spec.model}: tensor {name!r} {what}", hint=hint)

    api = library.api
    kind = engine.get_tensor_dtype(name)
    dtype = _DTYPES.get(kind.name)
    if dtype is None:
        raise refuse(f"is of type {kind.name}, which cannot be served")
    if engine.get_tensor_location(name) != api.TensorLocation.DEVICE:
        raise refuse("is read or written on the host, which cannot be served")
    if engine.get_tensor_format(name) != api.TensorFormat.LINEAR:
        raise refuse("does not lie row by row", "build the plan with linear inputs and outputs")
    return TensorSpec(name, dtype, tuple(engine.get_tensor_shape(name)))


def _ranges(engine: Any, inputs: Sequence[str], index: int) -> Ranges:
    ends = [_ends(engine, name, index) for name in inputs]
    return Ranges(index, tuple(least for least, _ in ends), tuple(most for _, most in ends))


def _ends(engine: Any, name: str, index: int) -> tuple[Shape, Shape]:
    """The least and the most that a profile takes of an input."""
    declared = tuple(engine.get_tensor_shape(name))
    if -1 not in declared:
        return declared, declared
    least, _, most = engine.get_tensor_profile_shape(name, index)
    return tuple(least), tuple(most)


def _width(profile: Ranges) -> int:
    """How much a profile leaves open."""
    return sum(
        b - a
        for least, most in zip(profile.least, profile.most, strict=True)
        for a, b in zip(least, most, strict=True)
    )
