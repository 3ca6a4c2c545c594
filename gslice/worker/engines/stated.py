"""What the operator states of a model's tensors: checked against the model, and seen by clients.

Clients see a tensor as it is stated: its inputs may be narrower than the model's, and have another
shape (`model_dims`), in which the model never sees them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gslice.core.errors import LoadFailed
from gslice.core.types import Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from gslice._native import Batch
    from gslice.core.types import FunctionSpec
    from gslice.worker.engines.base import Call
    from gslice.worker.shapes import Shape

_Named = TypeVar("_Named")


@dataclass(frozen=True)
class StatedTensor:
    """A tensor as the operator has it.

    Attributes:
        name: On the wire.
        dtype: A KServe data type.
        dims: As clients see it.
        model_dims: As the model does.
    """

    name: str
    dtype: str
    dims: Shape
    model_dims: Shape

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> StatedTensor:
        """From the arguments of a function."""
        dims = tuple(value["dims"])
        return cls(value["name"], value["dtype"], dims, tuple(value.get("model_dims", dims)))

    @property
    def reshaped(self) -> bool:
        """Whether clients see another shape than the model."""
        return self.dims != self.model_dims


class Stated:
    """What is stated of one model; nothing, if it is made by code.

    Args:
        spec: The function.
    """

    def __init__(self, spec: FunctionSpec) -> None:
        args = spec.args if spec.model else {}
        self._spec = spec
        self._inputs = [StatedTensor.of(value) for value in args.get("inputs", ())]
        self._outputs = [StatedTensor.of(value) for value in args.get("outputs", ())]
        self._batched: bool | None = args.get("batched")

    @property
    def names_tensors(self) -> bool:
        """Whether anything is said of single tensors."""
        return bool(self._inputs or self._outputs)

    @property
    def batched(self) -> bool | None:
        """Whether first dimensions are rows; None: the model shows it."""
        return self._batched

    def chosen(self, outputs: Sequence[_Named], name: Callable[[_Named], str]) -> list[_Named]:
        """Those of a model's outputs that are to be served, in the order that is stated."""
        if not self._outputs:
            return list(outputs)
        by_name = {name(output): output for output in outputs}
        self._check_known("output", self._outputs, by_name)
        return [by_name[tensor.name] for tensor in self._outputs]

    def served(self, found: Signature, *, by_place: bool = False) -> Signature:
        """The signature that clients see.

        Args:
            found: The model's.
            by_place: The engine hands tensors over by their places, so that names which end in
                `__0`, `__1` and so on may stand for them.

        Raises:
            LoadFailed: the model is another than what is stated.
        """
        if self._batched and not found.rows_max:
            raise LoadFailed(
                f"function {self._spec.name}: is said to be batched, but the first dimensions of"
                " its tensors are no rows",
                hint="write batched: false; in config.pbtxt max_batch_size: 0, and whole dims",
            )
        inputs = _by_place(self._inputs, found.inputs) if by_place else found.inputs
        outputs = _by_place(self._outputs, found.outputs) if by_place else found.outputs
        known = {tensor.name: tensor for tensor in inputs}
        if self._inputs:
            self._check_known("input", self._inputs, known)
            if extra := known.keys() - {tensor.name for tensor in self._inputs}:
                raise LoadFailed(
                    f"function {self._spec.name}: the model takes {_listed(extra)} as well,"
                    " of which nothing is stated"
                )
        self._check_known("output", self._outputs, {tensor.name for tensor in outputs})
        return replace(
            found,
            inputs=tuple(self._seen("input", tensor, found.rows_max) for tensor in inputs),
            outputs=tuple(self._seen("output", tensor, found.rows_max) for tensor in outputs),
        )

    def seen_by_clients(self, call: Call, signature: Signature) -> Call:
        """A model's call, for batches as clients see them.

        Args:
            call: Takes batches as the model sees them.
            signature: As `served` gave it.
        """
        rows = signature.rows_max > 0
        into = _reshapes(signature.inputs, self._inputs, rows)
        out_of = _reshapes(signature.outputs, self._outputs, rows)
        if not into and not out_of:
            return call
        return lambda batch: call(cast("Batch", _ReshapedBatch(batch, into, out_of)))

    def _check_known(self, kind: str, stated: Sequence[StatedTensor], known: Any) -> None:
        if missing := {tensor.name for tensor in stated} - set(known):
            raise LoadFailed(
                f"function {self._spec.name}: the model has no {kind} {_listed(missing)}, which is"
                f" stated; it has {_listed(known)}"
            )

    def _seen(self, kind: str, found: TensorSpec, rows_max: int) -> TensorSpec:
        stated = self._inputs if kind == "input" else self._outputs
        tensor = next((each for each in stated if each.name == found.name), None)
        if tensor is None:
            return found
        if tensor.dtype != found.dtype or not _agree(tensor.model_dims, found.dims):
            raise LoadFailed(
                f"function {self._spec.name}: {kind} {tensor.name!r} is stated as {tensor.dtype}"
                f"{list(tensor.model_dims)}, and the model has {found.dtype}{list(found.dims)}"
            )
        if rows_max and tensor.dims[:1] != (-1,):
            raise LoadFailed(
                f"function {self._spec.name}: {kind} {tensor.name!r} is stated as"
                f" {list(tensor.dims)}, and its first dimension is rows",
                hint="write -1 there, or batched: false",
            )
        if tensor.reshaped:
            return replace(found, dims=tensor.dims)
        # What comes out is whatever the model makes; what goes in is no more than what is stated.
        if kind == "output":
            return found
        narrower = (s if f == -1 else f for s, f in zip(tensor.dims, found.dims, strict=True))
        return replace(found, dims=tuple(narrower))


def _by_place(
    stated: Sequence[StatedTensor], found: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """The tensors under names such as `INPUT__0`, where all that are stated are of that form."""
    places = [re.search(r"__([0-9]+)$", tensor.name) for tensor in stated]
    names = {int(m[1]): t.name for m, t in zip(places, stated, strict=True) if m is not None}
    if len(names) < len(stated) or {t.name for t in stated} <= {t.name for t in found}:
        return found
    return tuple(
        replace(tensor, name=names.get(place, tensor.name)) for place, tensor in enumerate(found)
    )


def _agree(stated: Shape, found: Shape) -> bool:
    return len(stated) == len(found) and all(
        -1 in (s, f) or s == f for s, f in zip(stated, found, strict=True)
    )


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"


@dataclass(frozen=True)
class _Reshape:
    """A tensor's two shapes; a first dimension of rows is the same in both."""

    client: Shape
    model: Shape
    rows: bool

    def to_model(self, shape: Shape) -> Shape:
        return self._filled(self.model, shape)

    def to_client(self, shape: Shape) -> Shape:
        return self._filled(self.client, shape)

    def _filled(self, dims: Shape, shape: Shape) -> Shape:
        start = 1 if self.rows else 0
        count, fixed = math.prod(shape[start:]), math.prod(d for d in dims[start:] if d != -1)
        if count % fixed or (count != fixed and -1 not in dims[start:]):
            raise ValueError(f"{list(shape)} cannot be seen as {list(dims)}")
        rest = (count // fixed if dim == -1 else dim for dim in dims[start:])
        return (*shape[:start], *rest)


def _reshapes(
    tensors: Sequence[TensorSpec], stated: Sequence[StatedTensor], rows: bool
) -> dict[int, _Reshape]:
    by_name = {tensor.name: tensor for tensor in stated if tensor.reshaped}
    return {
        index: _Reshape(by_name[tensor.name].dims, by_name[tensor.name].model_dims, rows)
        for index, tensor in enumerate(tensors)
        if tensor.name in by_name
    }


class _ReshapedBatch:
    """A batch with the shapes that the model sees; all else is as it is."""

    def __init__(
        self, batch: Batch, inputs: Mapping[int, _Reshape], outputs: Mapping[int, _Reshape]
    ) -> None:
        self._batch = batch
        self._inputs = inputs
        self._outputs = outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def input_shape(self, index: int) -> Shape:
        shape = self._batch.input_shape(index)
        return self._inputs[index].to_model(shape) if index in self._inputs else shape

    def input_array(self, index: int) -> np.ndarray:
        return self._batch.input_array(index).reshape(self.input_shape(index))

    def output_shape(self, index: int) -> Shape | None:
        shape = self._batch.output_shape(index)
        if shape is None or index not in self._outputs:
            return shape
        return self._outputs[index].to_model(shape)

    def set_output(self, index: int, array: np.ndarray) -> None:
        self._batch.set_output(index, array.reshape(self._to_client(index, array.shape)))

    def set_output_bytes(self, index: int, data: bytes, shape: Sequence[int]) -> None:
        self._batch.set_output_bytes(index, data, self._to_client(index, tuple(shape)))

    def set_output_ptr(self, index: int, pointer: int, shape: Sequence[int], dtype: str) -> None:
        self._batch.set_output_ptr(index, pointer, self._to_client(index, tuple(shape)), dtype)

    def _to_client(self, index: int, shape: Shape) -> Shape:
        return self._outputs[index].to_client(shape) if index in self._outputs else shape
