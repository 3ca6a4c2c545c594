"""`tensors` of a function: what its model must take and give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import function_from_yaml
from gslice.core.errors import ConfigError
from gslice.core.types import FunctionSpec

X = {"name": "x", "dtype": "FP32", "dims": [-1, 4]}


def read(tensors: dict[str, Any], **body: Any) -> FunctionSpec:
    whole = {"model": "m.onnx", "tensors": tensors} | body
    return function_from_yaml("f", json.dumps(whole), Path("/"))


def test_only_what_is_written_is_kept() -> None:
    assert read({}).args == {}
    assert read({"batched": False}).args == {"batched": False}
    assert read({"inputs": [X]}).args == {"inputs": [X]}
    seen = X | {"model_dims": [-1, 2, 2]}
    assert read({"outputs": [seen], "batched": True}).args == {"outputs": [seen], "batched": True}


@pytest.mark.parametrize(
    ("dims", "model_dims"),
    [
        ([-1, 4], [-1, 2, 2]),
        ([1], []),
        ([-1, 1, -1], [-1, -1]),
        ([-1, -1, 3], [-1, -1]),
        ([2, -1], [-1]),
        ([-1], [-1, 1]),
    ],
)
def test_shapes_that_hold_the_same(dims: list[int], model_dims: list[int]) -> None:
    tensor = X | {"dims": dims, "model_dims": model_dims}
    assert read({"inputs": [tensor]}).args["inputs"] == [tensor]


@pytest.mark.parametrize(
    ("dims", "model_dims", "told"),
    [
        ([-1, 4], [-1, 5], "dims [-1, 4] do not hold as much as model_dims [-1, 5]"),
        ([4], [-1], "may each have one -1"),
        ([-1, -1, -1], [-1, -1, -1], "may each have one -1"),
        ([1], [0], "dims are positive"),
    ],
)
def test_shapes_that_do_not(dims: list[int], model_dims: list[int], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"inputs": [X | {"dims": dims, "model_dims": model_dims}]})
    assert caught.value.message.startswith("f:1: functions.f.tensors.inputs.0: ")
    assert told in caught.value.message


def test_tensors_are_a_models() -> None:
    with pytest.raises(ConfigError, match="tensors goes with model only"):
        read({"batched": True}, model=None, python="a:B")
    with pytest.raises(ConfigError, match=r"model_dims goes with \.onnx models only"):
        read({"inputs": [X | {"model_dims": [-1, 4]}]}, model="m.pt2")
    assert read({"inputs": [X]}, model="m.pt2").args == {"inputs": [X]}


def test_the_number_of_a_model() -> None:
    assert read({}, versions={"number": 7}).versions.number == 7
    with pytest.raises(ConfigError, match="must be at least 0"):
        read({}, versions={"number": -1})
