"""ONNX models, served: the signature is the model's, the answers are onnxruntime's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gslice.core.errors import Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.device.cpu import CpuDevice
from gslice.worker.engines import make_engine
from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine
from tests import models
from tests.served import Served


def load(path: Path, **options: object) -> Signature:
    engine = make_engine("onnxruntime")
    signature = engine.load(FunctionSpec("f", model=str(path), **options), CpuDevice((0,), 100.0))
    engine.close()
    return signature


def save(folder: Path, graph: onnx.GraphProto) -> Path:
    path = folder / "model.onnx"
    opsets = [helper.make_opsetid("", models.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=models.IR_VERSION), path)
    return path


def value(name: str, kind: int, shape: list[object] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


# ---- signatures ------------------------------------------------------------------------------


def test_a_named_first_dimension_is_a_batch(tmp_path: Path) -> None:
    assert load(models.affine(tmp_path)) == Signature(
        (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 16
    )


def test_batch_max_bounds_the_rows(tmp_path: Path) -> None:
    assert load(models.affine(tmp_path), batch_max=4).rows_max == 4


def test_the_user_can_say_that_rows_are_none(tmp_path: Path) -> None:
    assert load(models.affine(tmp_path), args={"batched": False}).rows_max == 0


def test_a_fixed_batch_becomes_a_bucket_when_asked_for(tmp_path: Path) -> None:
    path = models.fixed_batch(tmp_path, 4)
    assert load(path).inputs[0].dims == (4, 3)
    assert load(path).rows_max == 0
    assert load(path, batch_max=16).rows_max == 0
    padded = load(path, batch_max=4)
    assert (padded.inputs[0].dims, padded.rows_max, padded.buckets) == ((-1, 3), 4, (4,))


def test_scalars_and_flat_results_are_no_batches(tmp_path: Path) -> None:
    assert load(models.scalar(tmp_path)) == Signature(
        (TensorSpec("x", "FP32", ()),), (TensorSpec("y", "FP32", ()),)
    )
    assert load(models.nonzero(tmp_path)).outputs == (TensorSpec("y", "INT64", (1, -1)),)


@pytest.mark.parametrize(("node", "rows_max"), [("Relu", 16), ("NonZero", 0)])
def test_differently_named_rows_are_tried_out(tmp_path: Path, node: str, rows_max: int) -> None:
    kind = TensorProto.FLOAT if node == "Relu" else TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node(node, ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", kind, ["rows", "columns"])],
    )
    assert load(save(tmp_path, graph)).rows_max == rows_max


def test_what_is_known_is_not_tried_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[object] = []
    probe = OnnxRuntimeEngine._probe

    def counted(self: OnnxRuntimeEngine, *arguments: Any) -> Any:
        probes.append(arguments)
        return probe(self, *arguments)

    def loaded(columns: int, known: Signature | None) -> Signature:
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [value("x", TensorProto.FLOAT, ["batch", columns])],
            [value("y", TensorProto.FLOAT, ["rows", columns])],
        )
        spec = FunctionSpec("f", model=str(save(tmp_path, graph)))
        probes.clear()
        return OnnxRuntimeEngine().load(spec, CpuDevice((0,), 100.0), known)

    monkeypatch.setattr(OnnxRuntimeEngine, "_probe", counted)
    first = loaded(4, None)
    assert (first.rows_max, len(probes)) == (16, 2)
    assert loaded(4, first) == first
    assert probes == []
    other = loaded(5, first)  # the file is another one by now
    assert (other.inputs[0].dims, len(probes)) == ((-1, 5), 2)


def test_an_output_of_untold_shape_gets_the_rank_that_a_run_shows(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Squeeze", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, "M", 1])],
        [value("y", TensorProto.FLOAT, None)],
    )
    with Served(FunctionSpec("f", model=str(save(tmp_path, graph)))) as served:
        assert served.signature.outputs == (TensorSpec("y", "FP32", (-1,)),)
        assert served.infer({"x": np.ones((1, 5, 1), np.float32)})["y"].tolist() == [1] * 5


# ---- answers ---------------------------------------------------------------------------------

CASES: dict[str, tuple[Callable[[Path], Path], list[Mapping[str, np.ndarray]]]] = {
    "affine": (models.affine, [{"x": random(1, 8)}, {"x": random(3, 8)}]),
    "dynamic height and width": (
        models.dynamic_image,
        [{"x": random(1, 3, 9, 7)}, {"x": random(2, 3, 9, 7)}, {"x": random(1, 3, 5, 5)}],
    ),
    "strings": (
        models.strings,
        [
            {"x": np.array([["a", ""]], object)},
            {"x": np.array([["grün", "b"], ["c", "d"]], object)},
        ],
    ),
    "several inputs and outputs": (
        models.multi,
        [{"a": random(n, 4), "b": random(n, 4), "c": np.arange(n, dtype=np.uint8)} for n in (2, 1)],
    ),
    "scalar": (models.scalar, [{"x": np.array(3, np.float32)}]),
    "unknown output size": (
        models.nonzero,
        [{"x": np.array([0, 1, 0, 2], np.float32)}, {"x": np.zeros(3, np.float32)}],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_equal_onnxruntime(tmp_path: Path, case: str) -> None:
    make, requests = CASES[case]
    path = make(tmp_path)
    with Served(FunctionSpec("f", model=str(path))) as served:
        answers = served.infer_together(requests)
    for inputs, answer in zip(requests, answers, strict=True):
        for name, expected in models.reference(path, inputs).items():
            if expected.dtype == object:
                expected = np.array([e.encode() for e in expected.flat], object).reshape(
                    expected.shape
                )
            np.testing.assert_array_equal(answer[name], expected, strict=True)


@pytest.mark.parametrize("dtype", [name for name in models.KINDS if name not in ("BYTES", "BF16")])
def test_every_type_passes_through(tmp_path: Path, dtype: str) -> None:
    path = models.identity(tmp_path, dtype)
    kind = helper.tensor_dtype_to_np_dtype(models.KINDS[dtype])
    x = np.arange(8).reshape(2, 4).astype(kind)
    with Served(FunctionSpec("f", model=str(path))) as served:
        np.testing.assert_array_equal(served.infer({"x": x})["y"], x, strict=True)


def test_bfloat16_passes_through_as_bits(tmp_path: Path) -> None:
    for dims in (("N", 4), ("N", "M")):  # bound by pointer, and of unknown shape
        path = models.identity(tmp_path, "BF16", dims)
        bits = np.arange(8, dtype=np.uint16).reshape(2, 4)
        with Served(FunctionSpec("f", model=str(path))) as served:
            answer = served.infer({"x": bits})["y"]
        np.testing.assert_array_equal(answer.view(np.uint16), bits)


def test_smaller_batches_are_padded_to_a_fixed_one(tmp_path: Path) -> None:
    path = models.fixed_batch(tmp_path, 4)
    with Served(FunctionSpec("f", model=str(path), batch_max=4)) as served:
        for rows in (1, 3, 4):
            x = random(rows, 3)
            answer = served.infer({"x": x})["y"]
            np.testing.assert_allclose(answer, x.sum(axis=1), rtol=1e-6)


def test_a_request_alone_is_not_copied(tmp_path: Path) -> None:
    with Served(FunctionSpec("f", model=str(models.affine(tmp_path)))) as served:
        served.infer({"x": random(2, 8)})
        copies = served.segment.stats()["copies"]
        counters = served.pump.counters()
        assert counters["zero_copy_batches"] == counters["batches"] == 1
        assert copies == 2  # the front-end's, in and out
        served.infer_together([{"x": random(1, 8)}, {"x": random(2, 8)}])
        assert served.pump.counters()["python_calls"] == 2


def test_a_failing_run_fails_its_batch_with_the_reason(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "g",
        [value("x", TensorProto.INT64, ["N"])],
        [value("y", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])],
    )
    path = save(tmp_path, graph)
    with Served(FunctionSpec("f", model=str(path))) as served:
        with pytest.raises(Internal, match=r'function "f": .*indices element out of data bounds'):
            served.infer({"x": np.array([99], np.int64)})
        answer = served.infer({"x": np.array([1], np.int64)})["y"]
        np.testing.assert_array_equal(answer, np.array([2], np.float32))


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with (
        Served(FunctionSpec("f", model=str(models.strings(tmp_path)))) as served,
        pytest.raises(Internal, match="input 'x' has an element that is not UTF-8"),
    ):
        served.infer({"x": np.array([[b"\xff", b""]], object)})


# ---- models that cannot be loaded --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"this is no protobuf at all", "is not an ONNX model, or it is damaged"),
        (b"\x08\x08" * 40, "cannot load|is not an ONNX model"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadFailed, match=f"function f: .*({reason})"):
        load(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = models.slow(tmp_path, size=64, steps=2)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LoadFailed, match="is not an ONNX model, or it is damaged"):
        load(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="is no file"):
        load(tmp_path)


def test_sequences_cannot_be_served(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])],
    )
    with pytest.raises(LoadFailed, match=r"output 'y' is of type seq\(tensor\(float\)\)"):
        load(save(tmp_path, graph))


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(LoadFailed, match="there is no engine 'caffe'"):
        make_engine("caffe")
