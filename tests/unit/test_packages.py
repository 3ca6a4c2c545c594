"""ONNX Runtime's two packages, of which one must not be there: who tells, and what to do."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gslice.cli import checks
from gslice.cli.main import app
from gslice.core.errors import LoadFailed
from gslice.core.packages import OnnxRuntimePackages, cuda_provider, installed
from gslice.worker import engines
from gslice.worker.engines import make_engine

CPU_ONLY = OnnxRuntimePackages("1.32", "")
GPU_ONLY = OnnxRuntimePackages("", "1.32")
BOTH = OnnxRuntimePackages("1.32", "1.31")
NONE = OnnxRuntimePackages("", "")

NODE = """\
version: 1
devices: {DEVICES}
functions:
  detector: {model: ./detector.onnx, device: auto, share: 30%}
  reader: {model: ./reader.onnx, device: cpu, share: 30%}
  tagger: {python: my_pkg.tagger:Tagger, device: cpu, share: 10%}
"""


def test_versions_are_those_of_packages() -> None:
    assert installed("numpy").count(".") >= 1
    assert installed("no-such-package") == ""
    assert OnnxRuntimePackages.find().cpu == installed("onnxruntime")


@pytest.mark.parametrize(
    ("found", "on_gpu", "what", "hint"),
    [
        (CPU_ONLY, False, "", ""),
        (GPU_ONLY, False, "", ""),
        (GPU_ONLY, True, "", ""),
        (NONE, False, "", ""),
        (NONE, True, "onnxruntime-gpu is not installed", "pip install 'gslice[cuda]'"),
        (
            CPU_ONLY,
            True,
            "onnxruntime 1.32 computes on the CPU only",
            "pip uninstall -y onnxruntime, then pip install 'gslice[cuda]'",
        ),
        (
            BOTH,
            True,
            "onnxruntime 1.32 and onnxruntime-gpu 1.31 overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'gslice[cuda]'",
        ),
        (
            BOTH,
            False,
            "onnxruntime 1.32 and onnxruntime-gpu 1.31 overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'gslice[cpu]', or "
            "'gslice[cuda]' for a GPU",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    found: OnnxRuntimePackages, on_gpu: bool, what: str, hint: str
) -> None:
    assert found.problem(on_gpu) == (what, hint)


# ---- doctor ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanting", "status", "detail"),
    [
        (CPU_ONLY, [], "ok", "onnxruntime 1.32"),
        (GPU_ONLY, ["detector"], "ok", "onnxruntime-gpu 1.32"),
        (NONE, [], "note", "not installed"),
        (
            CPU_ONLY,
            ["detector", "reader"],
            "fail",
            "onnxruntime 1.32 computes on the CPU only; detector, reader may run on a GPU",
        ),
        (BOTH, [], "fail", "onnxruntime 1.32 and onnxruntime-gpu 1.31 overwrite each other"),
    ],
)
def test_doctor_judges_the_packages_by_the_functions(
    found: OnnxRuntimePackages, wanting: list[str], status: str, detail: str
) -> None:
    check = checks.check_onnxruntime(found, wanting)
    assert (check.status, check.detail) == (status, detail)
    assert bool(check.hint) == (status == "fail")


def test_functions_that_may_run_on_a_gpu_are_found(here: Path) -> None:
    node = here / "node.yaml"
    for devices, wanting in (
        ("{cuda:0: {}, cpu: {}}", ["detector"]),
        ("{cpu: {}, cuda:0: {}}", []),  # `auto` stays on the kind of the first
        ("{cpu: {}}", []),
    ):
        node.write_text(NODE.replace("{DEVICES}", devices))
        assert checks.onnx_on_gpus(node) == wanting


def test_doctor_reads_the_node_yaml_that_is_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimePackages, "find", lambda: CPU_ONLY)
    (here / "node.yaml").write_text(NODE.replace("{DEVICES}", "{cuda:0: {}, cpu: {}}"))
    found = doctor()
    assert found["ONNX Runtime"]["status"] == "fail"
    assert found["ONNX Runtime"]["detail"].endswith("; detector may run on a GPU")
    (here / "other.yaml").write_text(NODE.replace("{DEVICES}", "{cpu: {}}"))
    assert doctor("-c", "other.yaml")["ONNX Runtime"]["status"] == "ok"
    (here / "node.yaml").write_text("version: 1\nfunctions: {a: {}}\n")
    found = doctor()
    assert found["node.yaml"]["status"] == "fail"
    assert found["node.yaml"]["detail"].startswith("node.yaml:2: functions.a: says nothing")
    assert found["ONNX Runtime"]["status"] == "ok"


def doctor(*arguments: str) -> dict[str, dict[str, str]]:
    shown = CliRunner().invoke(app, ["doctor", "--quick", "--json", *arguments])
    return {check["name"]: check for check in json.loads(shown.stdout)["checks"]}


# ---- a load ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (BOTH, "onnxruntime 1.32 and onnxruntime-gpu 1.31 overwrite each other"),
        (GPU_ONLY, "cannot import name 'InferenceSession'"),  # what uninstalling the other leaves
    ],
)
def test_files_of_two_packages_that_do_not_fit_are_told(
    monkeypatch: pytest.MonkeyPatch, found: OnnxRuntimePackages, reason: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("gslice.worker.engines.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    monkeypatch.setattr(OnnxRuntimePackages, "find", lambda: found)
    with pytest.raises(LoadFailed) as failed:
        make_engine("onnxruntime")
    assert failed.value.message.startswith(f"engine onnxruntime cannot be imported: {reason}")
    assert failed.value.hint.startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then ")


def test_a_package_that_is_missing_is_named_with_its_extras(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("gslice.worker.engines.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoadFailed) as failed:
        make_engine("onnxruntime")
    assert failed.value.message == "engine onnxruntime needs the package onnxruntime"
    assert failed.value.hint == "pip install 'gslice[cpu]', or 'gslice[cuda]' for a GPU"


# ---- a spare ---------------------------------------------------------------------------------


def test_a_spare_leaves_an_onnxruntime_alone_that_would_open_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    monkeypatch.setattr(engines, "make_engine", made.append)
    for library in (Path("libonnxruntime_providers_cuda.so"), None):
        monkeypatch.setattr(engines, "cuda_provider", lambda library=library: library)
        engines.preload("onnxruntime")
        engines.preload("torch")
    assert made == ["torch", "onnxruntime", "torch"]


def test_the_provider_is_found_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").write_text("raise ImportError('nobody imports it')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert cuda_provider() is None
    library = capi / "libonnxruntime_providers_cuda.so"
    library.touch()
    assert cuda_provider() == library
