"""Models and packages that the onnxruntime engine refuses on a GPU, over the stand-ins.

Run by test_engines_gpu.py, in a process that finds only these.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from gslice import _native
from gslice.core import packages
from gslice.core.errors import LoadFailed
from gslice.core.packages import OnnxRuntimePackages, cuda_provider
from gslice.core.types import FunctionSpec
from gslice.worker.engines import make_engine, onnx_cuda
from gslice.worker.engines.onnx_cuda import CudaProvider
from gslice.worker.gpu import GpuDevice
from gslice.worker.weights import WeightStore
from tests import models
from tests.fakes.onnx_gpu import FakeCudaProvider
from tests.unit.onnx_on_gpu import onnx_served


def test_text_is_refused_at_load(cuda: _native.CudaDevice, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"'x' is BYTES, which stay on the CPU \(put this"):
        onnx_served(cuda, models.strings(tmp_path))


def looked_at(
    cuda: _native.CudaDevice,
    *parts: tuple[str, list[tuple[str, str]]],
    memory: str = "Cuda",
    **options: Any,
) -> None:
    """A model whose nodes (type, domain) are with these providers, with one input."""
    told = [
        SimpleNamespace(
            ep_name=provider,
            get_nodes=lambda nodes=nodes: [
                SimpleNamespace(name="", op_type=kind, domain=domain) for kind, domain in nodes
            ],
        )
        for provider, nodes in parts
    ]
    session: Any = SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name="x")],
        get_input_memory_infos=lambda: [SimpleNamespace(name=memory)],
        get_provider_graph_assignment_info=lambda: told,
    )
    CudaProvider(cuda).check(FunctionSpec("f", model="m.onnx", **options), session)


ON_GPU = ("CUDAExecutionProvider", [("Conv", ""), ("Gemm", "")])
SHAPES = ("CPUExecutionProvider", [("Shape", ""), ("Gather", "ai.onnx"), ("Shape", "")])
STRAYS = ("CPUExecutionProvider", [("Unique", ""), ("Add", "com.microsoft"), ("Unique", "")])


def test_shapes_may_be_computed_on_the_cpu(
    cuda: _native.CudaDevice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    looked_at(cuda, ON_GPU)
    assert caplog.messages == []
    looked_at(cuda, ON_GPU, SHAPES)
    assert caplog.messages == ["on the CPU, for shapes: Gather, 2 Shape"]


def test_nodes_on_the_cpu_are_named_and_refused(
    cuda: _native.CudaDevice, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LoadFailed) as refused:
        looked_at(cuda, ON_GPU, SHAPES, STRAYS)
    assert str(refused.value) == (
        "function f: m.onnx has nodes that run on the CPU, which each batch waits for: "
        "Add, 2 Unique (put it on `device: cpu`, or take that with `args: {cpu_nodes: true}`)"
    )
    looked_at(cuda, STRAYS, args={"cpu_nodes": True})
    assert caplog.messages == [
        "m.onnx has nodes that run on the CPU, which each batch waits for: Add, 2 Unique"
    ]


def test_an_input_that_is_read_on_the_cpu_is_refused(cuda: _native.CudaDevice) -> None:
    for options in ({}, {"args": {"cpu_nodes": True}}):  # it would not have come yet
        with pytest.raises(LoadFailed, match=r"m.onnx reads input 'x' on the CPU \(put it on"):
            looked_at(cuda, ON_GPU, memory="Cpu", **options)


def test_a_real_session_tells_where_its_nodes_are(
    cuda: _native.CudaDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = models.nonzero(tmp_path)
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell")
    spec = FunctionSpec("f", model=str(path))
    with pytest.raises(LoadFailed, match="reads input 'x' on the CPU"):
        CudaProvider(cuda).check(spec, session)
    monkeypatch.setattr(onnx_cuda, "_HOST", "elsewhere")
    with pytest.raises(LoadFailed, match=r"nodes that run on the CPU, .*: NonZero \(put"):
        CudaProvider(cuda).check(spec, session)
    FakeCudaProvider.check(FakeCudaProvider(cuda), spec, session)


def test_an_onnxruntime_that_does_not_tell_is_too_old(cuda: _native.CudaDevice) -> None:
    with pytest.raises(LoadFailed, match=r"does not tell what it computes on the CPU \(pip inst"):
        CudaProvider(cuda).check(FunctionSpec("f"), SimpleNamespace())  # type: ignore[arg-type]


def load(cuda: _native.CudaDevice, path: Path) -> None:
    store = WeightStore(cuda)
    try:
        make_engine("onnxruntime").load(
            FunctionSpec("f", model=str(path)), GpuDevice(cuda, (0,), store)
        )
    finally:
        store.close()


@pytest.mark.parametrize(
    ("cpu", "gpu", "reason"),
    [
        ("1.32", "", "onnxruntime 1.32 computes on the CPU only (pip uninstall -y onnxruntime, "),
        ("1.32", "1.31", "onnxruntime 1.32 and onnxruntime-gpu 1.31 overwrite each other (pip "),
    ],
)
def test_the_wrong_package_is_named(
    cuda: _native.CudaDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpu: str,
    gpu: str,
    reason: str,
) -> None:
    versions = {"onnxruntime": cpu, "onnxruntime-gpu": gpu}
    monkeypatch.setattr(packages, "installed", versions.__getitem__)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(LoadFailed) as failed:
        load(cuda, models.affine(tmp_path))
    assert f"function f: there is no CUDA provider: {reason}" in str(failed.value)
    assert "pip install 'gslice[cuda]'" in failed.value.hint


def test_two_packages_of_which_the_right_one_won_are_told(
    cuda: _native.CudaDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(packages, "installed", lambda _: "1.32")
    served, _ = onnx_served(cuda, models.affine(tmp_path))
    served.close()
    assert [m.partition(":")[0] for m in caplog.messages] == [
        "onnxruntime 1.32 and onnxruntime-gpu 1.32 overwrite each other"
    ]


def test_a_provider_that_does_not_start_is_told_with_the_loaders_reason(
    cuda: _native.CudaDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda_provider() is not None:
        pytest.skip("this onnxruntime has a CUDA provider")
    shared = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_shared.so"
    (tmp_path / shared.name).symlink_to(shared)
    library = tmp_path / "libonnxruntime_providers_cuda.so"
    monkeypatch.setattr(onnx_cuda, "cuda_provider", lambda: library)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(OnnxRuntimePackages, "find", lambda: OnnxRuntimePackages("", "1.32"))
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),  # onnxruntime goes on without
        pytest.raises(LoadFailed) as failed,
    ):
        load(cuda, models.affine(tmp_path))
    assert failed.value.message == (
        f"function f: onnxruntime {ort.__version__} cannot use {cuda.name}: {library}: cannot open "
        "shared object file: No such file or directory"
    )
    assert "pip install 'gslice[cuda]'" in failed.value.hint


def test_an_onnxruntime_without_the_provider_says_so(
    cuda: _native.CudaDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_cuda, "cuda_provider", lambda: None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(OnnxRuntimePackages, "find", lambda: OnnxRuntimePackages("", "1.32"))
    with pytest.raises(LoadFailed, match=r"no CUDA provider: onnxruntime .*: it is built without"):
        load(cuda, models.affine(tmp_path))


assert ctypes.CDLL("libcuda.so.1"), "run by test_engines_gpu.py"
