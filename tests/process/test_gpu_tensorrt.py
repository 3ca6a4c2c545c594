"""A node that serves TensorRT's plans, over the stand-ins of the GPU and of the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gslice.core.plans import PlanCache
from tests import models
from tests.fakes.gpu import FakeGpu
from tests.fakes.tensorrt import install
from tests.process.gpu import MPS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", install(tmp_path / "packages"))
    return PlanCache()


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
def test_a_plan_is_built_by_the_first_worker_and_loaded_by_its_shadow(
    start_gpu_node, gpu: FakeGpu, cache: PlanCache, tmp_path: Path, engine: str
) -> None:
    model = models.affine(tmp_path)
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    expected = models.reference(model, {"x": x})["y"]
    body = {"model": str(model), "engine": engine, "batch": {"max": 4}, "share": "25%"}
    node = start_gpu_node({"f": body}, devices=MPS)
    np.testing.assert_allclose(node.client().infer("f", {"x": x})["y"], expected, rtol=1e-6)
    (built,) = cache.plans()
    before = node.worker_pids("f")
    with node.control() as control:
        *_, done = control.resize("f", "50%")
    assert done.resized.path == "shadow"
    assert node.worker_pids("f") != before
    np.testing.assert_allclose(node.client().infer("f", {"x": x})["y"], expected, rtol=1e-6)
    (kept,) = cache.plans()
    assert (kept.name, kept.built_s) == (built.name, built.built_s)
    assert kept.used_s > built.used_s


def test_a_model_that_cannot_be_built_fails_with_the_librarys_words(
    start_gpu_node, gpu: FakeGpu, cache: PlanCache, tmp_path: Path
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"?")
    node = start_gpu_node({"f": {"model": str(model), "engine": "tensorrt"}}, devices=MPS)
    found = node.function("f")
    assert found.state == "FAILED"
    assert "tensorrt: reading " in found.reason
    assert "Failed to parse ONNX model" in found.reason
