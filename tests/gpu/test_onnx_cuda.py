"""What the fakes leave open of the onnxruntime engine: its CUDA provider, on a lane's stream.

Each test serves a function in this process: engine, warm-up, pump and a front-end's data path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import LoadFailed
from gslice.core.types import FunctionSpec
from tests.served import Served

pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from tests import models  # noqa: E402  (it needs onnx)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

STEADY_BATCHES = 100
TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}  # the provider multiplies FP32 as TF32


@pytest.fixture
def cuda() -> Iterator[_native.CudaDevice]:
    ort.preload_dlls()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip(f"onnxruntime {ort.__version__} has no CUDA provider")
    device = _native.CudaDevice(0, 2)
    yield device
    device.close()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


CASES: dict[str, tuple[Callable[[Path], Path], list[Mapping[str, np.ndarray]]]] = {
    "affine": (models.affine, [{"x": random(n, 8)} for n in (1, 3, 8, 5, 1)]),
    "dynamic height and width": (
        models.dynamic_image,
        [{"x": random(1, 3, 9, 7)}, {"x": random(2, 3, 9, 7)}, {"x": random(1, 3, 5, 5)}],
    ),
    "several inputs and outputs": (
        models.multi,
        [{"a": random(n, 4), "b": random(n, 4), "c": np.arange(n, dtype=np.uint8)} for n in (2, 1)],
    ),
    "scalar": (models.scalar, [{"x": np.array(3, np.float32)}]),
    "unknown output size": (
        models.nonzero,
        [
            {"x": np.array([0, 1, 0, 2], np.float32)},
            {"x": np.zeros(3, np.float32)},
            {"x": np.ones(5, np.float32)},
        ],
    ),
    "a shape computed on the CPU": (models.folded, [{"x": random(n, 6)} for n in (2, 1, 3)]),
    "much work": (lambda folder: models.slow(folder, 512, 50), [{"x": random(2, 512)}] * 3),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_the_cpu(cuda: _native.CudaDevice, tmp_path: Path, case: str):
    make, requests = CASES[case]
    path = make(tmp_path)
    with Served(FunctionSpec("f", model=str(path)), cuda=cuda) as served:
        answers = [*served.infer_together(requests), *map(served.infer, requests)]
    for inputs, answer in zip([*requests, *requests], answers, strict=True):
        for name, expected in models.reference(path, inputs).items():
            np.testing.assert_allclose(answer[name], expected, **TOLERANCE)
            assert (answer[name].shape, answer[name].dtype) == (expected.shape, expected.dtype)


def test_both_lanes_answer_for_themselves(cuda: _native.CudaDevice, tmp_path: Path):
    path = models.slow(tmp_path, 256, 20)
    rows = random(64, 256)
    expected = models.reference(path, {"x": rows})["y"]
    with Served(FunctionSpec("f", model=str(path), batch_max=4), cuda=cuda) as served:
        for first in range(0, 64, 16):  # four batches at a time, two of them in flight
            part = slice(first, first + 16)
            answers = served.infer_together([{"x": row[None]} for row in rows[part]])
            got = np.concatenate([answer["y"] for answer in answers])
            np.testing.assert_allclose(got, expected[part], **TOLERANCE)


def test_steady_state_allocates_nothing(cuda: _native.CudaDevice, tmp_path: Path):
    x = {"x": random(4, 3, 16, 16)}
    spec = FunctionSpec("f", model=str(models.dynamic_image(tmp_path)), lanes=1)
    with Served(spec, cuda=cuda) as served:
        for _ in range(3):
            served.infer(x)
        before, free_bytes = served.pump.counters(), cuda.memory_free_bytes()
        for _ in range(STEADY_BATCHES):
            served.infer(x)
        after = served.pump.counters()
        assert cuda.memory_free_bytes() == free_bytes
    for name in ("synchronise_calls", "allocations", "lane_buffer_allocations"):
        assert after[name] == before[name], name
    assert after["copies"] - before["copies"] == 2 * STEADY_BATCHES


def test_bfloat16_lies_in_the_lane_as_it_is(cuda: _native.CudaDevice, tmp_path: Path):
    bits = np.arange(0x3F80, 0x3F88, dtype=np.uint16).reshape(2, 4)
    path = models.identity(tmp_path, "BF16")
    with Served(FunctionSpec("f", model=str(path)), cuda=cuda) as served:
        np.testing.assert_array_equal(served.infer({"x": bits})["y"].view(np.uint16), bits)


def test_a_node_without_a_kernel_is_named(cuda: _native.CudaDevice, tmp_path: Path):
    path = models.unique(tmp_path)
    with pytest.raises(LoadFailed, match=r"has nodes that run on the CPU, .*: Unique \(put it on"):
        Served(FunctionSpec("f", model=str(path)), cuda=cuda)
    spec = FunctionSpec("f", model=str(path), args={"cpu_nodes": True})
    with Served(spec, cuda=cuda) as served:
        for x in ([3, 1, 3], [2, 2], [5, 4, 6, 4]):
            answer = served.infer({"x": np.array(x, np.float32)})["y"]
            np.testing.assert_array_equal(answer, np.unique(x).astype(np.float32) * 2)


def test_an_input_that_is_read_on_the_cpu_is_refused(cuda: _native.CudaDevice, tmp_path: Path):
    with pytest.raises(LoadFailed, match="reads input 'shape' on the CPU"):
        Served(FunctionSpec("f", model=str(models.reshaped(tmp_path))), cuda=cuda)


def test_an_arena_that_is_too_small_says_so(cuda: _native.CudaDevice, tmp_path: Path):
    path = models.slow(tmp_path, 2048, 1)  # 16 MiB of weights
    spec = FunctionSpec("f", model=str(path), args={"arena": "8MiB"})
    with pytest.raises(LoadFailed, match=r"onnxruntime cannot load|fails with a batch"):
        Served(spec, cuda=cuda)
