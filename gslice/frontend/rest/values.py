"""Tensors as JSON has them, numbers, booleans and text, to and from their raw bytes.

Raw bytes are what both protocols share: row-major, little endian, BYTES elements each preceded by
their length. BF16 is a FP32 without its lower half.
"""

from __future__ import annotations

import array
import math
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import InvalidArgument
from gslice.core.types import ELEMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTEGERS = {  # array's codes, which refuse what does not fit
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
}
_FLOATS = {"FP16": "<f2", "BF16": "<f4", "FP32": "<f4", "FP64": "<f8"}
_FORMATS = {
    **{name: np.dtype(code).newbyteorder("<") for name, code in _INTEGERS.items()},
    **{name: np.dtype(form) for name, form in _FLOATS.items()},
}


def to_raw(data: Any, dtype: str, shape: Sequence[int], where: str) -> bytes:
    """A tensor's bytes from its elements, in a flat list or nested as its shape is.

    Whether they are as many as the shape says, the data path checks like for any other tensor.

    Args:
        data: As `json.loads` gives it.
        dtype: KServe's word.
        shape: As the request says it.
        where: In the request, for messages.

    Raises:
        InvalidArgument: These are no elements of that type, or are nested otherwise.
    """
    if dtype not in ELEMENT_BYTES:
        known = ", ".join(ELEMENT_BYTES)
        raise InvalidArgument(f"{where}: there is no datatype {dtype!r}", hint=f"use {known}")
    elements, kinds = _flat(data, shape, where)
    if dtype == "BOOL":
        _check_kinds(kinds, {bool}, "true or false", dtype, where)
        return bytes(elements)
    if dtype == "BYTES":
        _check_kinds(kinds, {str}, "a string", dtype, where)
        try:
            return encode_elements(elements)
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{where}: half a surrogate pair is no text") from error
    if dtype in _INTEGERS:
        _check_kinds(kinds, {int}, "an integer", dtype, where)
        return _integers(elements, dtype, where)
    _check_kinds(kinds, {int, float}, "a number", dtype, where)
    return _floats(elements, dtype, where)


def from_raw(raw: bytes, dtype: str, where: str) -> list[Any]:
    """A tensor's elements from its bytes, flat. What is no number in JSON (NaN, infinite) is None.

    Args:
        raw: As it came from a slot.
        dtype: KServe's word.
        where: What it is, for messages.

    Raises:
        InvalidArgument: It is text that JSON cannot tell.
    """
    if dtype == "BYTES":
        try:
            return [element.decode() for element in decode_elements(raw)]
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"{where} is not UTF-8, so JSON cannot tell it", hint="ask for binary_data"
            ) from error
    if dtype == "BOOL":
        return [byte != 0 for byte in raw]
    if dtype not in _FLOATS:
        return list(np.frombuffer(raw, _FORMATS[dtype]).tolist())
    values = _widened(raw) if dtype == "BF16" else np.frombuffer(raw, _FORMATS[dtype])
    numbers: list[Any] = values.tolist()
    if not np.isfinite(values).all():
        return [number if math.isfinite(number) else None for number in numbers]
    return numbers


def _flat(data: Any, shape: Sequence[int], where: str) -> tuple[list[Any], set[type]]:
    """All elements, and which types they have."""
    if not isinstance(data, list):
        raise InvalidArgument(f"{where} must be a list, not {_word(type(data))}")
    depth = 0
    while True:
        kinds = set(map(type, data))
        if list not in kinds:
            break
        _check_level(data, kinds, shape, depth, where)
        data = list(chain.from_iterable(data))
        depth += 1
    if depth not in (0, len(shape) - 1):
        raise InvalidArgument(f"{where} is nested {depth + 1} deep, its shape is {list(shape)}")
    return data, kinds


def _check_level(
    data: list[Any], kinds: set[type], shape: Sequence[int], depth: int, where: str
) -> None:
    """Lists of one level of nesting: nothing but lists, all as long as the shape says."""
    inner = shape[depth + 1] if depth + 1 < len(shape) else None
    if kinds != {list} or inner is None or set(map(len, data)) != {inner}:
        raise InvalidArgument(
            f"{where} is nested otherwise than its shape {list(shape)} says",
            hint="send a flat list, in row-major order",
        )


def _check_kinds(kinds: set[type], allowed: set[type], what: str, dtype: str, where: str) -> None:
    for kind in kinds - allowed:
        raise InvalidArgument(f"{where}: an element of {dtype} must be {what}, not {_word(kind)}")


def _integers(elements: list[int], dtype: str, where: str) -> bytes:
    try:
        packed = array.array(_INTEGERS[dtype], elements)
    except OverflowError as error:
        raise InvalidArgument(f"{where}: a number does not fit into {dtype}") from error
    return np.asarray(packed).astype(_FORMATS[dtype], copy=False).tobytes()


def _floats(elements: list[float], dtype: str, where: str) -> bytes:
    try:
        wide = np.asarray(array.array("d", elements))
    except OverflowError as error:
        raise InvalidArgument(f"{where}: a number does not fit into {dtype}") from error
    with np.errstate(over="ignore"):
        values = wide.astype(_FORMATS[dtype])
        raw = _narrowed(values) if dtype == "BF16" else values
    # JSON has no infinite numbers: whatever is one now was too large.
    finite = np.isfinite(values).all() and (dtype != "BF16" or np.isfinite(_widened(raw)).all())
    if not finite:
        raise InvalidArgument(f"{where}: a number does not fit into {dtype}")
    return raw.tobytes()


def _narrowed(values: np.ndarray) -> np.ndarray:
    """The upper halves of finite FP32 numbers, rounded to nearest, ties to even."""
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _widened(raw: bytes | np.ndarray) -> np.ndarray:
    """BF16 as FP32, which has all of its values."""
    return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")


_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}


def _word(kind: type) -> str:
    return _WORDS[kind]
