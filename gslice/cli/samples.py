"""Inputs made up from a signature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gslice.cli.inputs import with_batch
from gslice.client.tensors import DTYPES, bf16_dtype
from gslice.core.errors import InvalidArgument
from gslice.core.types import Signature, TensorSpec

Shapes = dict[str, tuple[int, ...]]

_TEXT = b"gslice"


def parse_shapes(texts: Sequence[str], signature: Signature) -> Shapes:
    """Input name -> shape, from `NAME=1,3,224,224`.

    Raises:
        InvalidArgument: no such input, or no shape of it.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    shapes: Shapes = {}
    for text in texts:
        name, _, dims = text.partition("=")
        if name not in specs:
            raise InvalidArgument(
                f"--shape {text}: there is no input {name!r}", hint=f"it takes {', '.join(specs)}"
            )
        try:
            shapes[name] = tuple(int(dim) for dim in dims.split(","))
        except ValueError as error:
            raise InvalidArgument(
                f"--shape {text}: not a shape; write it as {name}=1,3,224,224"
            ) from error
        if len(shapes[name]) != len(specs[name].dims) or min(shapes[name]) < 1:
            raise InvalidArgument(
                f"--shape {text}: does not fit {name}, whose shape is {list(specs[name].dims)}"
            )
    return shapes


def made_up(signature: Signature) -> dict[str, np.ndarray]:
    """The smallest request that a function takes: see `random_inputs`."""
    return random_inputs(signature, batch=1, shapes={}, seed=0)


def random_inputs(
    signature: Signature, batch: int, shapes: Shapes, seed: int
) -> dict[str, np.ndarray]:
    """One request: floats between 0 and 1, zeros for integers, a short text for BYTES.

    Args:
        signature: Of the function.
        batch: Rows, if the function is batchable.
        shapes: By input, where they are given; elsewhere an open length is 1.
        seed: Of the floats.
    """
    _check_batch(signature, batch)
    numbers = np.random.default_rng(seed)
    arrays = {}
    for spec in signature.inputs:
        shape = shapes.get(spec.name) or tuple(dim if dim > 0 else 1 for dim in spec.dims)
        if signature.rows_max and batch > 1:
            shape = (batch, *shape[1:])
        arrays[spec.name] = _values(spec, shape, numbers)
    return arrays


def repeated(
    arrays: dict[str, np.ndarray], signature: Signature, batch: int
) -> dict[str, np.ndarray]:
    """The same rows as often as the batch needs."""
    _check_batch(signature, batch)
    if batch == 1:
        return arrays
    specs = {spec.name: spec for spec in signature.inputs}
    rows = {name: with_batch(array, specs[name], signature) for name, array in arrays.items()}
    return {name: np.repeat(array[:1], batch, axis=0) for name, array in rows.items()}


def _values(spec: TensorSpec, shape: tuple[int, ...], numbers: np.random.Generator) -> np.ndarray:
    if spec.dtype == "BYTES":
        return np.full(shape, _TEXT, dtype=object)
    dtype = bf16_dtype() if spec.dtype == "BF16" else DTYPES[spec.dtype]
    if spec.dtype in ("FP16", "BF16", "FP32", "FP64") and dtype.kind != "u":
        return numbers.random(shape, dtype=np.float32).astype(dtype)
    return np.zeros(shape, dtype)


def _check_batch(signature: Signature, batch: int) -> None:
    if batch > 1 and not signature.rows_max:
        raise InvalidArgument(
            f"--batch {batch}: the function takes one request at a time",
            hint="its first dimension is not a batch",
        )
    if signature.rows_max and batch > signature.rows_max:
        raise InvalidArgument(
            f"--batch {batch}: the function takes at most {signature.rows_max} rows"
        )
