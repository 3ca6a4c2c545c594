"""What is stated of a model's tensors: checked at the load, and seen by clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gslice.core.errors import Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.worker.engines.stated import Stated
from tests import models
from tests.served import Served


def tensor(name: str, dtype: str, *dims: int, as_: tuple[int, ...] | None = None) -> dict[str, Any]:
    stated: dict[str, Any] = {"name": name, "dtype": dtype, "dims": list(dims)}
    return stated if as_ is None else stated | {"model_dims": list(as_)}


def spec(path: Path, **stated: Any) -> FunctionSpec:
    return FunctionSpec("f", model=str(path), args=stated, batch_max=4)


def save(folder: Path, *nodes: onnx.NodeProto, x: list[Any], y: list[Any]) -> Path:
    path = folder / "model.onnx"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes), "g", [value("x", TensorProto.FLOAT, x)], [value("y", TensorProto.FLOAT, y)]
    )
    opsets = [helper.make_opsetid("", models.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=models.IR_VERSION), path)
    return path


def test_inputs_are_no_wider_than_stated_and_outputs_as_they_are(tmp_path: Path) -> None:
    path = models.dynamic_image(tmp_path)
    stated = spec(
        path,
        inputs=[tensor("x", "FP32", -1, 3, 8, -1)],
        outputs=[tensor("y", "FP32", -1, 2, 8, -1)],
    )
    with Served(stated) as served:
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 3, 8, -1)),),
            (TensorSpec("y", "FP32", (-1, 2, -1, -1)),),
            rows_max=4,
        )
        x = np.ones((1, 3, 8, 5), np.float32)
        np.testing.assert_allclose(
            served.infer({"x": x})["y"], models.reference(path, {"x": x})["y"], rtol=1e-5
        )


def test_only_the_outputs_that_are_stated_are_served(tmp_path: Path) -> None:
    stated = spec(
        models.multi(tmp_path),
        outputs=[tensor("count", "INT64", -1), tensor("total", "FP32", -1, 4)],
    )
    with Served(stated) as served:
        assert [each.name for each in served.signature.outputs] == ["count", "total"]
        a = np.ones((2, 4), np.float32)
        given = {"a": a, "b": a, "c": np.array([1, 2], np.uint8)}
        answer = served.infer(given)
        assert (answer["count"].tolist(), answer["total"].tolist()) == ([2, 3], [[2] * 4] * 2)


SEEN = [tensor("x", "FP32", -1, 2, 4, as_=(-1, 8))]
GIVEN = [tensor("y", "FP32", -1, 1, 3, as_=(-1, 3))]


def test_clients_see_another_shape_than_the_model(tmp_path: Path) -> None:
    path = models.affine(tmp_path)
    x = np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32)
    with Served(spec(path, inputs=SEEN, outputs=GIVEN)) as served:
        assert served.signature.inputs[0].dims == (-1, 2, 4)
        assert served.signature.outputs[0].dims == (-1, 1, 3)
        y = served.infer({"x": x.reshape(3, 2, 4)})["y"]
        assert y.shape == (3, 1, 3)
        expected = models.reference(path, {"x": x})["y"]
        np.testing.assert_allclose(y.reshape(3, 3), expected, rtol=1e-6)


def test_a_free_length_is_what_is_left(tmp_path: Path) -> None:
    path = save(tmp_path, helper.make_node("Neg", ["x"], ["y"]), x=["M"], y=["M"])
    stated = spec(
        path,
        batched=False,
        inputs=[tensor("x", "FP32", -1, 2, as_=(-1,))],
        outputs=[tensor("y", "FP32", 3, -1, as_=(-1,))],
    )
    x = np.arange(6, dtype=np.float32)
    with Served(stated) as served:
        assert served.infer({"x": x.reshape(3, 2)})["y"].tolist() == (-x).reshape(3, 2).tolist()
        with pytest.raises(Internal, match="cannot be seen as"):
            served.infer({"x": x[:4].reshape(2, 2)})


def test_text_is_reshaped_as_numbers_are(tmp_path: Path) -> None:
    stated = spec(
        models.strings(tmp_path),
        inputs=[tensor("x", "BYTES", -1, 1, 2, as_=(-1, 2))],
        outputs=[tensor("y", "BYTES", -1, 2, 1, as_=(-1, 2))],
    )
    with Served(stated) as served:
        answer = served.infer({"x": np.array([[[b"a", b"b"]]], object)})["y"]
        assert answer.tolist() == [[[b"a!"], [b"b!"]]]


def test_a_shape_that_a_run_shows_is_reshaped_too(tmp_path: Path) -> None:
    stated = spec(models.nonzero(tmp_path), outputs=[tensor("y", "INT64", -1, as_=(1, -1))])
    with Served(stated) as served:
        assert served.infer({"x": np.array([0, 5, 0, 7], np.float32)})["y"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"inputs": [tensor("z", "FP32", -1, 8)]}, "has no input 'z', which is stated; it has 'x'"),
        ({"outputs": [tensor("z", "FP32", -1, 3)]}, "has no output 'z'.*'y'"),
        ({"inputs": [tensor("x", "FP16", -1, 8)]}, r"stated as FP16\[-1, 8\].*has FP32\[-1, 8\]"),
        ({"inputs": [tensor("x", "FP32", -1, 9)]}, r"stated as FP32\[-1, 9\]"),
        ({"inputs": [tensor("x", "FP32", -1, 8, 1)]}, r"stated as FP32\[-1, 8, 1\]"),
        ({"inputs": [tensor("x", "FP32", 2, 8)]}, "its first dimension is rows"),
        ({"outputs": [tensor("y", "FP32", -1, 4)]}, "output 'y' is stated"),
        ({"outputs": [tensor("y", "FP32", -1, 4, as_=(-1, 4))]}, "output 'y' is stated"),
    ],
)
def test_a_model_that_is_another_is_not_loaded(
    tmp_path: Path, stated: dict[str, Any], reason: str
) -> None:
    with (
        pytest.raises(LoadFailed, match=reason),
        Served(spec(models.affine(tmp_path), **stated)),
    ):
        pass


def test_every_input_must_be_stated(tmp_path: Path) -> None:
    stated = spec(models.multi(tmp_path), inputs=[tensor("a", "FP32", -1, 4)])
    with pytest.raises(LoadFailed, match="takes 'b', 'c' as well"), Served(stated):
        pass


def test_rows_are_rows_if_the_operator_says_so(tmp_path: Path) -> None:
    free = save(tmp_path, helper.make_node("Neg", ["x"], ["y"]), x=["A", 2], y=["B", 2])
    for batched, rows_max in ((True, 4), (False, 0)):
        with Served(spec(free, batched=batched)) as served:
            assert served.signature.rows_max == rows_max
    fixed = models.fixed_batch(tmp_path, 4)
    for batched, rows_max in ((True, 4), (False, 0)):
        with Served(spec(fixed, batched=batched)) as served:
            assert served.signature.rows_max == rows_max


def test_rows_that_cannot_be_are_refused(tmp_path: Path) -> None:
    stated = spec(models.fixed_batch(tmp_path, 3), batched=True)
    with pytest.raises(LoadFailed, match="are no rows"), Served(stated):
        pass


def test_places_stand_for_names_where_the_engine_goes_by_them() -> None:
    found = Signature(
        (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))),
        (TensorSpec("output", "FP32", (-1,)),),
        rows_max=8,
    )
    stated = Stated(
        spec(
            Path("m.pt2"),
            inputs=[tensor("SECOND__1", "INT64", -1), tensor("FIRST__0", "FP32", -1, 2)],
            outputs=[tensor("OUTPUT__0", "FP32", -1)],
        )
    )
    seen = stated.served(found, by_place=True)
    assert [each.name for each in (*seen.inputs, *seen.outputs)] == [
        *("FIRST__0", "SECOND__1", "OUTPUT__0")
    ]
    with pytest.raises(LoadFailed, match="no input"):
        stated.served(found)


def test_arguments_of_code_state_nothing() -> None:
    stated = Stated(FunctionSpec("f", engine="python", python="a:B", args={"inputs": 7}))
    assert not stated.names_tensors
    assert stated.batched is None
