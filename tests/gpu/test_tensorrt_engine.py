"""What the stand-in leaves open of TensorRT: its own builds, contexts, memory and captures.

Each test serves a function in this process: engine, warm-up, pump and a front-end's data path.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import Internal, LoadFailed
from gslice.core.plans import LIBRARIES, PlanCache
from gslice.core.types import FunctionSpec
from tests import models
from tests.served import Served

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]  # builds, and RTX's compiler

STEADY_BATCHES = 100


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return needs(name)


def needs(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def cuda() -> Iterator[_native.CudaDevice]:
    device = _native.CudaDevice(0, 2)
    yield device
    device.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path / "cache"))
    return PlanCache()


def serve(cuda: _native.CudaDevice, library: str, model: Path, **settings: Any) -> Served:
    spec = FunctionSpec("f", engine=library, model=str(model), **settings)
    return Served(spec, cuda=cuda)


def shapes(least: list[int], usual: list[int], most: list[int]) -> dict[str, Any]:
    return {"min": least, "opt": usual, "max": most}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def close(answer: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(answer, expected, rtol=2e-3, atol=2e-3)  # TF32 has 10 bits


def test_graphs_answer_as_onnxruntime_does_in_every_bucket_and_lane(
    cuda: _native.CudaDevice, library: str, tmp_path: Path
):
    path, x = models.affine(tmp_path), random(8, 8)
    expected = models.reference(path, {"x": x})["y"]
    with serve(cuda, library, path, batch_max=8) as served:
        assert served.signature.buckets == (1, 2, 4, 8)
        for rows in (1, 2, 3, 5, 8, 7, 1):
            close(served.infer({"x": x[:rows]})["y"], expected[:rows])
        answers = served.infer_together([{"x": x[i : i + 1]} for i in range(8)] * 2)
        for i, answer in enumerate(answers):
            close(answer["y"], expected[i % 8][None])
        counters = served.pump.counters()
    assert counters["python_calls"] == 0
    assert counters["graph_launches"] == counters["batches"]


def test_calls_answer_likewise(
    cuda: _native.CudaDevice, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object) -> None:
        raise Internal("not in this test")

    monkeypatch.setattr("gslice.worker.engines.tensorrt_engine.capture", refused)
    path, x = models.affine(tmp_path), random(8, 8)
    expected = models.reference(path, {"x": x})["y"]
    with serve(cuda, library, path, batch_max=8) as served:
        for rows in (8, 1, 5):
            close(served.infer({"x": x[:rows]})["y"], expected[:rows])
        assert served.pump.counters()["python_calls"] == 3


def test_steady_state_neither_waits_nor_allocates(
    cuda: _native.CudaDevice, library: str, tmp_path: Path
):
    x = {"x": random(4, 512)}
    with serve(cuda, library, models.slow(tmp_path, steps=20), batch_max=4) as served:
        served.infer(x)
        before, free_bytes = served.pump.counters(), cuda.memory_free_bytes()
        for _ in range(STEADY_BATCHES):
            served.infer(x)
        after = served.pump.counters()
        assert cuda.memory_free_bytes() == free_bytes
    for name in ("synchronise_calls", "allocations", "lane_buffer_allocations"):
        assert after[name] == before[name], name


def test_lanes_do_not_disturb_each_other(cuda: _native.CudaDevice, library: str, tmp_path: Path):
    """All contexts of a lane work in one piece of memory, those of two lanes in two."""
    path, x = models.slow(tmp_path, steps=50), random(64, 512)
    expected = models.reference(path, {"x": x})["y"]
    with serve(cuda, library, path, batch_max=2) as served:
        for _ in range(5):
            answers = served.infer_together([{"x": x[i : i + 1]} for i in range(16)])
            for i, answer in enumerate(answers):
                close(answer["y"], expected[i][None])


def test_lengths_that_only_a_request_knows(cuda: _native.CudaDevice, library: str, tmp_path: Path):
    given = {"x": shapes([-1, 3, 1, 1], [-1, 3, 16, 16], [-1, 3, 32, 32])}
    path = models.dynamic_image(tmp_path)
    with serve(cuda, library, path, batch_max=2, args={"shapes": given}) as served:
        for shape in ((1, 3, 5, 9), (2, 3, 32, 32), (1, 3, 9, 5)):
            x = random(*shape)
            close(served.infer({"x": x})["y"], models.reference(path, {"x": x})["y"])
        with pytest.raises(Internal, match="the model was built for no 'x'"):
            served.infer({"x": random(1, 3, 33, 8)})


def test_outputs_of_a_shape_that_the_data_decides(cuda: _native.CudaDevice, tmp_path: Path):
    library = needs("tensorrt")  # RTX 1.7 has no NonZero
    args = {"shapes": {"x": shapes([1], [64], [4096])}}
    with serve(cuda, library, models.nonzero(tmp_path), args=args) as served:
        for x in (np.array([1, 0, 2], np.float32), np.ones(500, np.float32), np.zeros(9, "f4")):
            np.testing.assert_array_equal(served.infer({"x": x})["y"], np.nonzero(x))


def test_a_plan_is_built_once_and_loads_in_another_process(
    cuda: _native.CudaDevice, library: str, tmp_path: Path, cache: PlanCache
):
    path = models.affine(tmp_path)
    (tmp_path / "node.yaml").write_text(
        f"version: 1\ndevices: {{cuda:0: {{}}}}\n"
        f"functions: {{f: {{model: {path}, engine: {library}, batch: {{max: 4}}}}}}\n"
    )
    command = [sys.executable, "-m", "gslice", "build", "--config", str(tmp_path / "node.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (plan,) = cache.plans()
    with serve(cuda, library, path, batch_max=4) as served:
        served.infer({"x": random(3, 8)})
    assert [each.name for each in cache.plans()] == [plan.name]
    assert cache.plans()[0].built_s == plan.built_s


def test_rtx_runs_what_was_built_without_a_gpu(
    cuda: _native.CudaDevice, tmp_path: Path, cache: PlanCache
):
    library, path = needs("tensorrt_rtx"), models.affine(tmp_path)
    (tmp_path / "node.yaml").write_text(
        f"version: 1\nfunctions: {{f: {{model: {path}, engine: {library}}}}}\n"
    )
    capability = "{}.{}".format(*cuda.compute_capability)
    command = [sys.executable, "-m", "gslice", "build", "--compute-capability", capability]
    command += ["--config", str(tmp_path / "node.yaml")]
    subprocess.run(command, check=True)
    (plan,) = cache.plans()
    with serve(cuda, library, path) as served:
        served.infer({"x": random(3, 8)})
    assert [each.name for each in cache.plans()] == [plan.name]
    assert list(cache.directory.glob(f"{plan.name}.*.jit")), "what it compiled is kept"


def test_what_cannot_be_built_is_told_with_the_librarys_words(
    cuda: _native.CudaDevice, library: str, tmp_path: Path
):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(LoadFailed, match=f"function f: {library}: reading .* failed: .*[Pp]ars"):
        serve(cuda, library, tmp_path / "m.onnx")
    (tmp_path / "m.plan").write_bytes(b"no plan" * 100)
    with pytest.raises(LoadFailed, match=f"function f: {library}: loading .* failed: "):
        serve(cuda, library, tmp_path / "m.plan")
