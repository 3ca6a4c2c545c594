"""Every message survives JSON; what is wrong is named by its path."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.errors import InvalidArgument
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.messages import AddFunction, Hello, Loaded, Message

SCALARS: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    types.NoneType: st.none(),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=5,
)


def strategy_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type hint, every field of a dataclass drawn."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return JSON
    if origin in (types.UnionType, typing.Union):
        return st.one_of([strategy_of(arg) for arg in args])
    if origin is tuple:
        return st.lists(strategy_of(args[0]), max_size=3).map(tuple)
    if origin is list:
        return st.lists(strategy_of(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), strategy_of(args[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{name: strategy_of(of) for name, of in hints.items()})
    return SCALARS[hint]


@pytest.mark.parametrize("cls", typing.get_args(Message), ids=lambda cls: cls.__name__)
def test_every_message_survives_json(cls: type) -> None:
    @given(strategy_of(cls))
    def round_trip(message: Any) -> None:
        assert from_json(cls, json.loads(json.dumps(to_json(message)))) == message

    round_trip()


def test_unknown_fields_are_ignored() -> None:
    assert from_json(TensorSpec, {"name": "x", "dtype": "FP32", "dims": [-1], "new": 1}) == (
        TensorSpec("x", "FP32", (-1,))
    )


def test_absent_fields_take_their_defaults() -> None:
    assert from_json(FunctionSpec, {"name": "f"}) == FunctionSpec("f")


def test_missing_fields_are_all_named() -> None:
    with pytest.raises(InvalidArgument, match=r"Hello: missing protocol, pid"):
        from_json(Hello, {"role": "worker", "started": 1})


@pytest.mark.parametrize(
    ("cls", "value", "message"),
    [
        (Loaded, {"signature": None, "memory": {}}, "Loaded.signature: expected dict"),
        (
            TensorSpec,
            {"name": 1, "dtype": "", "dims": []},
            "TensorSpec.name: expected str, got int",
        ),
        (
            TensorSpec,
            {"name": "", "dtype": "", "dims": [True]},
            r"dims\[0\]: expected int, got bool",
        ),
        (Signature, [], "Signature: expected dict, got list"),
        (
            AddFunction,
            {"spec": {}, "signature": {"inputs": [], "outputs": []}},
            "AddFunction.spec: missing name",
        ),
    ],
)
def test_an_ill_typed_value_is_named_by_its_path(cls: type, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        from_json(cls, value)
