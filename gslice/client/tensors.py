"""Tensors between NumPy and the wire: raw bytes, row-major, little endian.

FP16 is float16. BF16 is `ml_dtypes.bfloat16` where that package is installed, else its bits as
uint16. BYTES are object arrays of `bytes`; going out, `str` is encoded as UTF-8.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import Internal, InvalidArgument
from gslice.core.types import TensorSpec

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Data types with a NumPy type of their own; BF16 and BYTES are handled apart."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@cache
def bf16_dtype() -> np.dtype[Any]:
    """What BF16 outputs come as: `ml_dtypes.bfloat16` where there is one, else uint16."""
    try:
        extension = importlib.import_module("ml_dtypes")
    except ModuleNotFoundError:
        return DTYPES["UINT16"]
    bfloat16: np.dtype[Any] = np.dtype(extension.bfloat16)
    return bfloat16


def wire_dtype(dtype: np.dtype[Any]) -> str:
    """The data type that an array of `dtype` travels as.

    Raises:
        InvalidArgument: There is none.
    """
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "BF16"
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise InvalidArgument(
            f"NumPy type {dtype} cannot travel", hint=f"convert it to one of {', '.join(DTYPES)}"
        )
    return name


def needs_spec(value: Any) -> bool:
    """Whether only the function's signature tells how `value` travels.

    Lists, scalars and texts have no data type or shape of their own, and uint16 may mean BF16.
    """
    return not isinstance(value, np.ndarray) or value.dtype == DTYPES["UINT16"]


def as_array(value: Any, spec: TensorSpec) -> np.ndarray:
    """`value` as the array that the input takes; a lone scalar or text gets the input's rank.

    Numbers become the input's type if they keep their values; floats may be rounded to floats.

    Raises:
        InvalidArgument: Its values or its shape do not fit the input.
    """
    is_bits = isinstance(value, np.ndarray) and value.dtype == DTYPES["UINT16"]
    if spec.dtype == "BYTES":
        array = np.asarray(value, dtype=object)
    elif spec.dtype == "BF16" and is_bits:
        array = value.view(bf16_dtype())
    elif spec.dtype == "BF16" and bf16_dtype() == DTYPES["UINT16"]:
        raise InvalidArgument(
            f"input {spec.name!r} takes BF16, which NumPy has no type for",
            hint="pip install ml_dtypes, or give the bits as an array of uint16",
        )
    else:
        array = _numbers(value, spec, bf16_dtype() if spec.dtype == "BF16" else DTYPES[spec.dtype])
    return array.reshape((1,) * len(spec.dims)) if array.ndim == 0 else array


def _numbers(value: Any, spec: TensorSpec, dtype: np.dtype[Any]) -> np.ndarray:
    def unfit(why: object) -> InvalidArgument:
        return InvalidArgument(f"input {spec.name!r} does not fit {spec.dtype}: {why}")

    try:
        with np.errstate(all="ignore"):  # what a cast loses is looked for below
            given = np.asarray(value)
            array = given if given.dtype == dtype else np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise unfit(error) from error
    if given.dtype.kind not in "biuf" and given.dtype.name != "bfloat16":
        raise unfit(f"{given.dtype} is no number")
    if dtype.kind in "biu":
        lost = np.flatnonzero(array != given)
    else:
        lost = np.flatnonzero(np.isfinite(given) & ~np.isfinite(array))
    if lost.size:
        first = lost[0]
        raise unfit(f"{given.flat[first]} would become {array.flat[first]}")
    return array


def encode(array: np.ndarray, dtype: str) -> bytes:
    """An array's elements as they travel.

    Raises:
        InvalidArgument: An element of a BYTES array is neither bytes nor text.
    """
    if dtype == "BYTES":
        try:
            return encode_elements(array.ravel(order="C"))
        except TypeError as error:
            raise InvalidArgument(str(error)) from error
    if dtype == "BF16":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return array.astype(DTYPES[dtype], copy=False).tobytes()


def decode(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of an output; it shares the answer's memory and cannot be written to.

    Raises:
        Internal: The bytes are not a tensor of that type and shape.
    """
    try:
        if dtype == "BYTES":
            elements = decode_elements(data)
            texts = np.empty(len(elements), object)
            texts[:] = elements
            return texts.reshape(shape)
        kind = bf16_dtype() if dtype == "BF16" else DTYPES[dtype]
        return np.frombuffer(data, kind).reshape(shape)
    except (KeyError, ValueError) as error:
        raise Internal(
            f"the answer's {dtype} tensor of shape {shape} is broken: {error}"
        ) from error
