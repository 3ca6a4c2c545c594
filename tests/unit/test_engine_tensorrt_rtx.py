"""What the stand-in imitates, asked of TensorRT-RTX itself: it builds without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import LoadFailed
from gslice.core.plans import PlanCache
from gslice.core.types import FunctionSpec
from gslice.worker.engines.tensorrt_api import TensorRt
from gslice.worker.engines.tensorrt_build import Network, Target
from gslice.worker.engines.tensorrt_plan import Found, Plans
from tests import models
from tests.cli import gslice

api = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

ADA = Target("", (8, 9))


@pytest.fixture(scope="module")
def library() -> TensorRt:
    return TensorRt("tensorrt_rtx")


def spec_of(model: Path, **settings: Any) -> FunctionSpec:
    return FunctionSpec("f", engine="tensorrt_rtx", model=str(model), **settings)


def found(library: TensorRt, tmp_path: Path, spec: FunctionSpec) -> Found:
    return Plans(library, ADA, PlanCache(tmp_path / "cache")).find(spec)


def test_a_model_is_built_once_with_a_profile_for_each_batch_size(
    library: TensorRt, tmp_path: Path
) -> None:
    spec = spec_of(models.affine(tmp_path), batch_max=6)
    profiles = [{"x": {key: [n, 8] for key in ("min", "opt", "max")}} for n in (1, 2, 4, 6)]
    assert Network(library, spec).profiles == profiles
    first, second = (found(library, tmp_path, spec) for _ in range(2))
    assert (first.built, second.built) == (True, False)
    assert bytes(first.plan) == second.plan
    runtime = api.Runtime(library.logger)
    validity, _ = runtime.get_engine_validity(second.plan)
    assert validity != api.EngineValidity.VALID, "there is no GPU, or this test should use it"


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (models.multi, {"batch_max": 2}),
        (models.fixed_batch, {}),
        (models.scalar, {}),
        (
            models.dynamic_image,
            {
                "batch_max": 2,
                "args": {
                    "shapes": {
                        "x": {"min": [-1, 3, 8, 8], "opt": [-1, 3, 16, 16], "max": [-1, 3, 32, 64]}
                    }
                },
            },
        ),
    ],
)
def test_models_of_other_kinds_are_built(
    library: TensorRt, tmp_path: Path, make: Any, settings: dict[str, Any]
) -> None:
    assert found(library, tmp_path, spec_of(make(tmp_path), **settings)).built


def test_what_it_cannot_build_is_told_with_its_words(library: TensorRt, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(LoadFailed, match=r"reading .*m.onnx failed: .*Failed to parse the ONNX"):
        found(library, tmp_path, spec_of(tmp_path / "m.onnx"))
    with pytest.raises(LoadFailed, match=r"reading .* failed: .*Failed to import initializer"):
        found(library, tmp_path, spec_of(models.strings(tmp_path)))
    wrong = {"x": {"min": [64], "opt": [8], "max": [1]}}  # node.yaml would not take it
    spec = spec_of(models.nonzero(tmp_path), args={"shapes": wrong})
    with pytest.raises(LoadFailed, match=r"NonZero plugin .* was not found"):
        found(library, tmp_path, spec)
    spec = spec_of(models.identity(tmp_path, dims=("N",)), args={"shapes": wrong})
    with pytest.raises(LoadFailed, match=r"adding a profile failed: .*satisfy MIN<=OPT<=MAX"):
        found(library, tmp_path, spec)


def test_the_command_line_builds_for_a_gpu_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path / "cache"))
    function = {"model": str(models.affine(tmp_path)), "engine": "tensorrt_rtx"}
    (tmp_path / "node.yaml").write_text(json.dumps({"version": 1, "functions": {"f": function}}))
    file = str(tmp_path / "node.yaml")
    done = gslice("build", "--config", file, "--compute-capability", "12.0", "--json")
    (answer,) = json.loads(done.stdout)
    assert (answer["built"], answer["gpu"]) == (True, "compute capability 12.0")
    assert answer["library"] == f"tensorrt_rtx {api.__version__}"
