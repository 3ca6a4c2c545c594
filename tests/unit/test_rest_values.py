"""Tensors as JSON and as bytes: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.errors import InvalidArgument
from gslice.core.types import ELEMENT_BYTES
from gslice.frontend.rest.values import from_raw, to_raw

INTEGERS = {
    name: (0 if name.startswith("U") else -(1 << bits - 1), (1 << bits - (name[0] != "U")) - 1)
    for bits in (8, 16, 32, 64)
    for name in (f"INT{bits}", f"UINT{bits}")
}
FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    **{name: st.integers(*ends) for name, ends in INTEGERS.items()},
    **{
        name: st.floats(width=bits, allow_nan=False, allow_infinity=False)
        for name, bits in FLOATS.items()
    },
    "BF16": st.integers(0, 0xFFFF)
    .map(lambda bits: float(np.array([bits], "<u2").view(ml_dtypes.bfloat16)[0]))
    .filter(math.isfinite),
}


def test_every_datatype_is_covered() -> None:
    assert ELEMENTS.keys() == ELEMENT_BYTES.keys()


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_json_becomes_bytes_and_json_again(dtype: str) -> None:
    @given(st.lists(ELEMENTS[dtype], max_size=6))
    def round_trip(elements: list[Any]) -> None:
        sent = json.loads(json.dumps(elements))
        raw = to_raw(sent, dtype, [len(elements)], "data")
        if ELEMENT_BYTES[dtype]:
            assert len(raw) == len(elements) * ELEMENT_BYTES[dtype]
        assert json.loads(json.dumps(from_raw(raw, dtype, "output"), allow_nan=False)) == elements

    round_trip()


@given(
    st.floats(
        width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127, min_value=-(2.0**127)
    )
)
def test_bf16_is_rounded_to_nearest(value: float) -> None:
    raw = to_raw([value], "BF16", [1], "data")
    assert raw == np.array([value], np.float32).astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_that_do_not_fit_are_refused(dtype: str) -> None:
    for beyond in (INTEGERS[dtype][0] - 1, INTEGERS[dtype][1] + 1, 1 << 80):
        with pytest.raises(InvalidArgument, match=f"data: a number does not fit into {dtype}"):
            to_raw([0, beyond], dtype, [2], "data")


@pytest.mark.parametrize(
    ("dtype", "beyond"),
    [("FP16", 65520.0), ("BF16", 3.4e38), ("FP32", 3.5e38), ("FP64", 10**400), ("FP64", math.inf)],
)
def test_numbers_that_are_too_large_are_refused(dtype: str, beyond: float) -> None:
    with pytest.raises(InvalidArgument, match="does not fit"):
        to_raw([beyond], dtype, [1], "data")


@pytest.mark.parametrize(
    ("dtype", "element", "words"),
    [
        ("INT32", 1.0, "an integer, not a fraction"),
        ("INT32", True, "an integer, not true or false"),
        ("FP32", "1", "a number, not a string"),
        ("FP32", None, "a number, not null"),
        ("BOOL", 1, "true or false, not an integer"),
        ("BYTES", 1, "a string, not an integer"),
        ("BYTES", {}, "a string, not an object"),
    ],
)
def test_elements_of_another_kind_are_refused(dtype: str, element: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        to_raw([element], dtype, [1], "data")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_nested_as_the_shape_is(shape: list[int], data: st.DataObject) -> None:
    array = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    nested = array.tolist()
    if 0 not in shape:
        assert to_raw(nested, "INT64", shape, "data") == array.tobytes()
    assert to_raw(array.ravel().tolist(), "INT64", shape, "data") == array.tobytes()
    other = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    if len(shape) > 1 and 0 not in shape and other != shape:
        same_inside = other[1:] == shape[1:]  # how many there are, the data path checks
        if not same_inside:
            with pytest.raises(InvalidArgument, match="nested"):
                to_raw(nested, "INT64", other, "data")


@pytest.mark.parametrize("nested", [[[1, 2], 3], [[1], [2, 3]], [[[1]], [2]]])
def test_crooked_nesting_is_refused(nested: list[Any]) -> None:
    with pytest.raises(InvalidArgument, match="nested"):
        to_raw(nested, "INT64", [2, 2], "data")
