"""Small ONNX models for tests, one a kind of function that gslice must serve.

Each maker writes a model file and returns its path. What a model computes is said beside it, and
`reference` runs it with onnxruntime alone, so that a test can compare answers with the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 9  # old enough for any onnxruntime we support

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
"""KServe data type -> ONNX element type."""


def identity(folder: Path, dtype: str = "FP32", dims: tuple[object, ...] = ("N", 4)) -> Path:
    """y = x, of any type and shape; batchable when the first dimension has a name."""
    return _save(
        folder / f"identity_{dtype.lower()}.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", dtype, dims)],
        [_value("y", dtype, dims)],
    )


def affine(folder: Path, features: int = 8, outputs: int = 3) -> Path:
    """y[N, outputs] = x[N, features] @ weight + bias: batchable, with arithmetic to compare."""
    random = np.random.default_rng(7)
    return _save(
        folder / "affine.onnx",
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])],
        [_value("x", "FP32", ("N", features))],
        [_value("y", "FP32", ("N", outputs))],
        {
            "weight": random.standard_normal((features, outputs)).astype(np.float32),
            "bias": random.standard_normal(outputs).astype(np.float32),
        },
    )


def dynamic_image(folder: Path) -> Path:
    """y[N, 2, H, W] = a 3x3 convolution of x[N, 3, H, W]: batchable, dynamic height and width."""
    random = np.random.default_rng(8)
    return _save(
        folder / "dynamic_image.onnx",
        [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])],
        [_value("x", "FP32", ("N", 3, "H", "W"))],
        [_value("y", "FP32", ("N", 2, "H", "W"))],
        {"weight": random.standard_normal((2, 3, 3, 3)).astype(np.float32)},
    )


def mean_colour(folder: Path, size: int = 32) -> Path:
    """y[N, 3] = the mean of each channel of x[N, 3, size, size]: a picture's colour."""
    return _save(
        folder / "mean_colour.onnx",
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["y"]),
        ],
        [_value("x", "FP32", ("N", 3, size, size))],
        [_value("y", "FP32", ("N", 3))],
    )


def strings(folder: Path) -> Path:
    """y[N, 2] = x[N, 2] with "!" after each element: BYTES in and out, of changing length."""
    return _save(
        folder / "strings.onnx",
        [helper.make_node("StringConcat", ["x", "suffix"], ["y"])],
        [_value("x", "BYTES", ("N", 2))],
        [_value("y", "BYTES", ("N", 2))],
        {"suffix": np.array(["!"], dtype=object)},
    )


def multi(folder: Path) -> Path:
    """total = a + b, difference = a - b, count = cast(c) + 1: several inputs, outputs and types."""
    return _save(
        folder / "multi.onnx",
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
            helper.make_node("Cast", ["c"], ["c64"], to=TensorProto.INT64),
            helper.make_node("Add", ["c64", "one"], ["count"]),
        ],
        [
            _value("a", "FP32", ("N", 4)),
            _value("b", "FP32", ("N", 4)),
            _value("c", "UINT8", ("N",)),
        ],
        [
            _value("total", "FP32", ("N", 4)),
            _value("difference", "FP32", ("N", 4)),
            _value("count", "INT64", ("N",)),
        ],
        {"one": np.array(1, dtype=np.int64)},
    )


def scalar(folder: Path) -> Path:
    """y = 2 * x for a tensor without dimensions: never batched."""
    return _save(
        folder / "scalar.onnx",
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        [_value("x", "FP32", ())],
        [_value("y", "FP32", ())],
        {"two": np.array(2, dtype=np.float32)},
    )


def fixed_batch(folder: Path, batch: int = 2) -> Path:
    """y[batch] = the sum of each row of x[batch, 3]; the batch size is fixed."""
    return _save(
        folder / "fixed_batch.onnx",
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [_value("x", "FP32", (batch, 3))],
        [_value("y", "FP32", (batch,))],
        {"axes": np.array([1], dtype=np.int64)},
    )


def nonzero(folder: Path) -> Path:
    """y[1, K] = the indices of x[M] that are not 0: nobody knows their number beforehand."""
    return _save(
        folder / "nonzero.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [_value("x", "FP32", ("M",))],
        [_value("y", "INT64", (1, "K"))],
    )


def unique(folder: Path) -> Path:
    """y[K] = the values of 2 * x[M], each once, ascending: Unique has no CUDA kernel."""
    return _save(
        folder / "unique.onnx",
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Unique", ["doubled"], ["y"], sorted=1),
        ],
        [_value("x", "FP32", ("M",))],
        [_value("y", "FP32", ("K",))],
        {"two": np.array(2, dtype=np.float32)},
    )


def folded(folder: Path) -> Path:
    """y[N, 2, M / 2] = 2 * x[N, M]; its shape is computed from that of x."""
    return _save(
        folder / "folded.onnx",
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["rows"]),
            helper.make_node("Concat", ["rows", "rest"], ["target"], axis=0),
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("Reshape", ["doubled", "target"], ["y"]),
        ],
        [_value("x", "FP32", ("N", "M"))],
        [_value("y", "FP32", ("N", 2, "H"))],
        {"zero": np.array([0], dtype=np.int64), "rest": np.array([2, -1], dtype=np.int64)},
    )


def reshaped(folder: Path) -> Path:
    """y = x[M] in the shape that a second input says: it is read on the CPU."""
    return _save(
        folder / "reshaped.onnx",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", "FP32", ("M",)), _value("shape", "INT64", (2,))],
        [_value("y", "FP32", ("A", "B"))],
    )


def slow(folder: Path, size: int = 512, steps: int = 200) -> Path:
    """y[N, size] = x, multiplied `steps` times by a rotation: a known amount of work a row."""
    random = np.random.default_rng(9)
    rotation = np.linalg.qr(random.standard_normal((size, size)))[0].astype(np.float32)
    nodes = [
        helper.make_node("MatMul", [f"x{i}" if i else "x", "rotation"], [f"x{i + 1}"])
        for i in range(steps)
    ]
    nodes.append(helper.make_node("Identity", [f"x{steps}"], ["y"]))
    return _save(
        folder / "slow.onnx",
        nodes,
        [_value("x", "FP32", ("N", size))],
        [_value("y", "FP32", ("N", size))],
        {"rotation": rotation},
    )


def reference(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime itself answers on one thread, by output name."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _value(name: str, dtype: str, dims: tuple[object, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, KINDS[dtype], list(dims))


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
) -> Path:
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
