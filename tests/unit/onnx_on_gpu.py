"""The onnxruntime engine on a GPU of stand-ins, with its CPU provider in place of the CUDA one.

Run by test_engines_gpu.py, in a process that finds only these.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.gpu import onnx_cuda as onnx_step
from benchmarks.gpu import pumped
from gslice import _native
from gslice.core.errors import Internal
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.messages import Measure
from gslice.worker.engines.onnx_cuda import CudaProvider
from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine
from gslice.worker.gpu import GpuDevice
from gslice.worker.timing import Timing
from gslice.worker.weights import WeightStore
from tests import models
from tests.fakes.onnx_gpu import FakeCudaProvider
from tests.served import Served

BUCKETS = (1, 2, 4, 8)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def onnx_served(
    cuda: _native.CudaDevice, path: Path, **options: Any
) -> tuple[Served, FakeCudaProvider]:
    provider = FakeCudaProvider(cuda)
    spec = FunctionSpec("f", model=str(path), **options)
    return Served(spec, OnnxRuntimeEngine(lambda _: provider), cuda), provider


# ---- what is served --------------------------------------------------------------------------


def test_a_lane_has_a_session_on_its_stream(cuda: _native.CudaDevice, tmp_path: Path) -> None:
    served, provider = onnx_served(cuda, models.affine(tmp_path), batch_max=8)
    with served:
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 8, BUCKETS
        )
        warmed = [(lane, bucket) for lane, bucket, *_ in provider.ran]
        assert warmed == [(lane, bucket) for lane in range(2) for bucket in BUCKETS]
        x = random(8, 8)
        served.infer_together([{"x": x[i : i + 1]} for i in range(8)] * 2)  # in both lanes
    streams = [cuda.lane_stream(0), cuda.lane_stream(1)]
    assert [s["user_compute_stream"] for s in provider.settings_seen] == [str(s) for s in streams]
    assert {(lane, stream) for lane, _, stream, _ in provider.ran} == set(enumerate(streams))
    sessions = {(lane, session) for lane, _, _, session in provider.ran}
    assert len(sessions) == len({session for _, session in sessions}) == 2


def test_a_lane_elsewhere_has_a_session_there_and_the_one_left_goes(tmp_path: Path) -> None:
    groups = _native.SmGroups(0)
    cuda = _native.CudaDevice(0, 2, groups=groups, chosen=[0])
    path = models.affine(tmp_path)
    served, provider = onnx_served(cuda, path, batch_max=8)
    engine, x = served.engine, random(3, 8)
    assert isinstance(engine, OnnxRuntimeEngine)
    expected = models.reference(path, {"x": x})["y"]
    with served:
        for chosen in ([1, 2], [3]):
            served.move(groups, chosen)
            places = range(cuda.first_lane, cuda.first_lane + 2)
            assert sorted(engine._sessions) == sorted(engine._calls) == list(places)
            np.testing.assert_allclose(served.infer({"x": x})["y"], expected, rtol=1e-6)
            assert provider.ran[-1][0] in places
    assert len(provider.settings_seen) == 6
    cuda.close()
    groups.close()


def test_what_the_provider_is_told(cuda: _native.CudaDevice) -> None:
    provider = CudaProvider(cuda)
    settings = provider.settings(FunctionSpec("f"), 1)
    assert settings == {
        "device_id": "0",
        "user_compute_stream": str(cuda.lane_stream(1)),
        "do_copy_in_default_stream": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "0",
    }
    bounded = FunctionSpec("f", args={"arena": "3GiB"}, lanes=2)
    assert provider.settings(bounded, 0)["gpu_mem_limit"] == str(3 << 29)


def test_a_run_does_not_wait_for_its_stream(cuda: _native.CudaDevice) -> None:
    entries: list[str] = []

    def run_with_iobinding(binding: str, options: ort.RunOptions) -> None:
        entries.append(options.get_run_config_entry("disable_synchronize_execution_providers"))

    session: Any = SimpleNamespace(run_with_iobinding=run_with_iobinding)
    CudaProvider(cuda).run(session, "binding", SimpleNamespace())  # type: ignore[arg-type]
    assert entries == ["1"]


CASES: dict[str, tuple[Callable[[Path], Path], list[Mapping[str, np.ndarray]]]] = {
    "affine": (models.affine, [{"x": random(n, 8)} for n in (1, 3, 2)]),
    "dynamic height and width": (
        models.dynamic_image,
        [{"x": random(1, 3, 9, 7)}, {"x": random(2, 3, 9, 7)}, {"x": random(1, 3, 5, 5)}],
    ),
    "several inputs and outputs": (
        models.multi,
        [{"a": random(n, 4), "b": random(n, 4), "c": np.arange(n, dtype=np.uint8)} for n in (2, 1)],
    ),
    "scalar": (models.scalar, [{"x": np.array(3, np.float32)}]),
    "a shape computed from a shape": (models.folded, [{"x": random(n, 6)} for n in (2, 1, 3)]),
    "unknown output size": (
        models.nonzero,
        [
            {"x": np.array([0, 1, 0, 2], np.float32)},
            {"x": np.zeros(3, np.float32)},
            {"x": np.ones(5, np.float32)},
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_equal_onnxruntime(cuda: _native.CudaDevice, tmp_path: Path, case: str) -> None:
    make, requests = CASES[case]
    path = make(tmp_path)
    served, _ = onnx_served(cuda, path)
    with served:
        answers = [*served.infer_together(requests), *map(served.infer, requests)]
    for inputs, answer in zip([*requests, *requests], answers, strict=True):
        for name, expected in models.reference(path, inputs).items():
            np.testing.assert_allclose(answer[name], expected, rtol=1e-5, atol=1e-6)
            assert (answer[name].shape, answer[name].dtype) == (expected.shape, expected.dtype)


def test_bfloat16_lies_in_the_lane_as_it_is(cuda: _native.CudaDevice, tmp_path: Path) -> None:
    for dims in (("N", 4), ("N", "M")):  # bound by pointer, and of unknown shape
        bits = np.arange(8, dtype=np.uint16).reshape(2, 4)
        served, _ = onnx_served(cuda, models.identity(tmp_path, "BF16", dims))
        with served:
            answer = served.infer({"x": bits})["y"]
        np.testing.assert_array_equal(answer.view(np.uint16), bits)


def test_a_fixed_batch_keeps_its_one_bucket(cuda: _native.CudaDevice, tmp_path: Path) -> None:
    served, _ = onnx_served(cuda, models.fixed_batch(tmp_path, 4), batch_max=4)
    with served:
        assert served.signature.buckets == (4,)
        x = random(3, 3)
        np.testing.assert_allclose(served.infer({"x": x})["y"], x.sum(axis=1), rtol=1e-5)


def test_buckets_of_a_gpu_are_not_taken_to_the_cpu(
    cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    from gslice.device.cpu import CpuDevice

    path = models.affine(tmp_path)
    served, _ = onnx_served(cuda, path)
    served.close()
    spec, engine = FunctionSpec("f", model=str(path)), OnnxRuntimeEngine()
    assert engine.load(spec, CpuDevice((0,), 100.0), served.signature).buckets == ()
    engine.close()


def test_a_batch_is_copied_in_and_out_and_nowhere_else(
    cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    served, _ = onnx_served(cuda, models.affine(tmp_path))
    with served:
        x = random(4, 8)
        served.infer({"x": x})
        before = served.pump.counters()
        for _ in range(5):
            served.infer({"x": x})
        after = served.pump.counters()
    assert after["copies"] - before["copies"] == 5 * 2
    assert after["python_calls"] - before["python_calls"] == 5
    for name in ("synchronise_calls", "allocations", "lane_buffer_allocations"):
        assert after[name] == before[name], name


def test_a_failing_run_fails_its_batch_with_the_reason(
    cuda: _native.CudaDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, provider = onnx_served(cuda, models.affine(tmp_path), lanes=1)
    with served:
        working = provider.run

        def fails(*_: object) -> None:
            raise RuntimeError("CUBLAS failure 13")

        monkeypatch.setattr(provider, "run", fails)
        with pytest.raises(Internal, match="CUBLAS failure 13"):
            served.infer({"x": random(1, 8)})
        monkeypatch.setattr(provider, "run", working)
        assert served.infer({"x": random(1, 8)})["y"].shape == (1, 3)


def test_it_is_measured_as_it_is_served(cuda: _native.CudaDevice, tmp_path: Path) -> None:
    provider, store = FakeCudaProvider(cuda), WeightStore(cuda)
    spec = FunctionSpec("f", model=str(models.affine(tmp_path)), batch_max=8)
    engine = OnnxRuntimeEngine(lambda _: provider)
    signature = engine.load(spec, GpuDevice(cuda, (0, 1), store))
    assert engine.threads == 1
    times = Timing(engine, spec, signature, cuda).measure(Measure(4, 3))
    assert (times.bucket, len(times.each_us)) == (4, 3)
    assert {(lane, bucket) for lane, bucket, *_ in provider.ran} == {(0, 4)}
    engine.close()
    store.close()


def test_the_gpu_suite_serves_it_and_times_its_calls(
    cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.affine(tmp_path)
    provider, store = FakeCudaProvider(cuda), WeightStore(cuda)
    engine = OnnxRuntimeEngine(lambda _: provider)
    spec = FunctionSpec("subject", model=str(path), lanes=1, batch_max=4)
    signature = engine.load(spec, GpuDevice(cuda, (0,), store))
    x = random(4, 8)
    with pumped.Served(signature, cuda, 1, engine.prepare) as served:
        served.run(served.requests(x))
        np.testing.assert_allclose(
            served.outputs(), models.reference(path, {"x": x})["y"], rtol=1e-5
        )
    before = len(provider.ran)
    row = onnx_step.timed_calls(engine, signature, cuda, 4)
    assert row["batch_us"] >= row["call_us"] > 0
    assert {bucket for _, bucket, *_ in provider.ran[before:]} == {4}
    engine.close()
    store.close()


def test_an_output_of_unknown_shape_is_handed_over_where_it_lies(
    cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.nonzero(tmp_path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x = np.array([0, 3, 4], np.float32)
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    given: list[tuple[object, ...]] = []
    batch: Any = SimpleNamespace(set_output_ptr=lambda *output: given.append(output))
    CudaProvider(cuda).give(batch, binding, [(0, "INT64")])
    ((index, pointer, shape, dtype),) = given
    assert (index, shape, dtype) == (0, (1, 2), "INT64")
    assert list((ctypes.c_int64 * 2).from_address(int(str(pointer)))) == [1, 2]
