"""The tensorrt engine on a GPU of stand-ins, with the stand-in of its library.

Run by test_engines_gpu.py, in a process that finds only these.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import Internal, LoadFailed, ResourceExhausted
from gslice.core.plans import PlanCache
from gslice.core.types import FunctionSpec
from gslice.ipc.messages import Measure
from gslice.worker.engines import tensorrt_run
from gslice.worker.engines.tensorrt_engine import TensorRtEngine
from gslice.worker.gpu import GpuDevice
from gslice.worker.timing import Timing
from gslice.worker.weights import WeightStore
from tests import models
from tests.fakes.tensorrt import FakeTensorRt
from tests.served import Served

LIBRARIES = {"tensorrt": "10.14.1.48", "tensorrt_rtx": "1.4.0.76"}


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path / "cache"))
    return PlanCache()


@pytest.fixture(params=LIBRARIES)
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRt]:
    made = FakeTensorRt(request.param, LIBRARIES[request.param])
    monkeypatch.setitem(sys.modules, request.param, made)  # type: ignore[arg-type]
    yield made
    assert made.violations == []


def served(fake: FakeTensorRt, cuda: _native.CudaDevice, model: Path, **settings: Any) -> Served:
    name = fake.__name__
    spec = FunctionSpec("f", engine=name, model=str(model), **settings)
    return Served(spec, cuda=cuda)


def shapes(least: list[int], usual: list[int], most: list[int]) -> dict[str, Any]:
    return {"min": least, "opt": usual, "max": most}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("graphs", [True, False])
def test_it_answers_the_same_with_and_without_graphs(
    fake: FakeTensorRt,
    cuda: _native.CudaDevice,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    graphs: bool,
) -> None:
    if not graphs:
        refused = Internal("operation not permitted when stream is capturing")

        def capture(*_: object) -> None:
            raise refused

        monkeypatch.setattr("gslice.worker.engines.tensorrt_engine.capture", capture)
    path, x = models.affine(tmp_path), random(7, 8)
    expected = models.reference(path, {"x": x})["y"]
    with served(fake, cuda, path, batch_max=8) as one:
        assert one.signature.buckets == (1, 2, 4, 8)
        assert len(fake.contexts) == 8, "one for each lane and batch size"
        for rows in (7, 1, 3, 2, 7):
            answer = one.infer({"x": x[:rows]})["y"]
            np.testing.assert_allclose(answer, expected[:rows], rtol=1e-6)
        together = one.infer_together([{"x": x[i : i + 1]} for i in range(7)] * 2)
        for i, each in enumerate(together):
            np.testing.assert_allclose(each["y"], expected[i % 7 : i % 7 + 1], rtol=1e-6)
        counters = one.pump.counters()
    assert fake.captured == ([0, 1, 2, 3] * 2 if graphs else [])
    assert counters["python_calls"] == (0 if graphs else counters["batches"])
    assert counters["graph_launches"] == (counters["batches"] if graphs else 0)
    refusals = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(refusals) == (0 if graphs else 1)
    assert graphs or refusals[0].endswith(
        "a batch of 1 rows cannot be: operation not permitted when stream is capturing"
    )


def test_a_lane_elsewhere_has_contexts_and_graphs_there_and_those_left_go(
    fake: FakeTensorRt, tmp_path: Path
) -> None:
    groups = _native.SmGroups(0)
    cuda = _native.CudaDevice(0, 2, groups=groups, chosen=[0])
    path, x = models.affine(tmp_path), random(3, 8)
    expected = models.reference(path, {"x": x})["y"]
    with served(fake, cuda, path, batch_max=4) as one:
        engine = one.engine
        assert isinstance(engine, TensorRtEngine)
        for chosen in ([1, 2], [3]):
            one.move(groups, chosen)
            places = {cuda.first_lane, cuda.first_lane + 1}
            assert {lane for lane, _ in engine._graphs} == places
            assert {lane for lane, _ in engine._calls} == engine._lanes.keys() == places
            np.testing.assert_allclose(one.infer({"x": x})["y"], expected, rtol=1e-6)
        assert one.pump.counters()["python_calls"] == 0
    cuda.close()
    groups.close()


def test_branches_of_a_plan_keep_to_the_sms_of_their_lane(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.affine(tmp_path)
    fake.aux_streams = 2
    groups = _native.SmGroups(0)
    part = _native.CudaDevice(0, 2, groups=groups, chosen=[0])
    with served(fake, part, path, batch_max=2) as one:
        mains = [part.lane_stream(lane) for lane in (0, 1)]
        for stream, of_lane in zip(mains, (fake.contexts[:2], fake.contexts[2:]), strict=True):
            sides = {stream for context in of_lane for stream in context.aux_streams}
            assert len(sides) == 2  # a lane runs one batch at a time
            assert {green_of(side) for side in sides} == {green_of(stream)} != {None}
        one.move(groups, [1, 2])
        assert {green_of(side) for side in fake.contexts[-1].aux_streams} == {
            green_of(part.lane_stream(part.first_lane))
        }
    part.close()
    groups.close()
    with served(fake, cuda, path, batch_max=1):  # where its own do
        assert fake.contexts[-1].aux_streams == []


def green_of(stream: int) -> int | None:
    """The green context that a stream is of, as the driver has it."""
    context, green = ctypes.c_void_p(), ctypes.c_void_p()
    driver = ctypes.CDLL("libcuda.so.1")
    arguments = ctypes.c_void_p(stream), ctypes.byref(context), ctypes.byref(green)
    assert driver.cuStreamGetCtx_v2(*arguments) == 0
    return green.value


def test_several_inputs_and_types(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.multi(tmp_path)
    inputs = {"a": random(3, 4), "b": random(3, 4) * 2, "c": np.array([1, 2, 3], np.uint8)}
    expected = models.reference(path, inputs)
    with served(fake, cuda, path, batch_max=4) as one:
        answer = one.infer(inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(answer[name], array)


def test_lengths_that_only_a_request_knows(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.dynamic_image(tmp_path)
    given = {"x": shapes([-1, 3, 1, 1], [-1, 3, 16, 16], [-1, 3, 32, 32])}
    with served(fake, cuda, path, batch_max=2, args={"shapes": given}) as one:
        for shape in ((1, 3, 5, 9), (2, 3, 32, 32), (1, 3, 9, 5)):
            x = random(*shape)
            answer = one.infer({"x": x})["y"]
            np.testing.assert_allclose(answer, models.reference(path, {"x": x})["y"], atol=1e-5)
        with pytest.raises(Internal, match=r"built for no 'x' of \[1, 3, 33, 8\] \(widen `shapes`"):
            one.infer({"x": random(1, 3, 33, 8)})
        assert one.infer({"x": random(1, 3, 5, 9)})["y"].shape == (1, 2, 5, 9)
    assert fake.captured == []


def test_outputs_of_a_shape_that_the_data_decides(
    fake: FakeTensorRt,
    cuda: _native.CudaDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise ResourceExhausted("the device is full")

    path = models.nonzero(tmp_path)
    given = {"x": shapes([1], [8], [4096])}
    with served(fake, cuda, path, args={"shapes": given}, lanes=1) as one:
        for x in (np.array([1, 0, 2], np.float32), np.ones(500, np.float32), np.zeros(9, "f4")):
            np.testing.assert_array_equal(one.infer({"x": x})["y"], np.nonzero(x))
        with monkeypatch.context() as patch:
            patch.setattr(tensorrt_run, "WeightBlock", types.SimpleNamespace(create_private=full))
            with pytest.raises(Internal, match="the device is full"):
                one.infer({"x": np.ones(4000, np.float32)})
        np.testing.assert_array_equal(one.infer({"x": np.ones(2, "f4")})["y"], [[0, 1]])


def test_rows_that_the_outputs_do_not_follow_are_found_before_it_serves(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    import onnx

    path = models.identity(tmp_path)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "K"
    onnx.save(model, path)
    with pytest.raises(LoadFailed, match=r"output 'y' has shape \[-1, 4\], the signature says"):
        served(fake, cuda, path)


@pytest.mark.parametrize(
    ("call", "doing"),
    [
        ("create_execution_context", "making a context"),
        ("set_optimization_profile_async", "choosing a profile"),
        ("set_device_memory", "giving memory"),
        ("set_input_shape", r"setting input 'x' to \[1, 8\]"),
        ("set_tensor_address", "placing input 'x'"),
        ("execute_async_v3", "running a batch"),
    ],
)
def test_whatever_is_refused_in_warm_up_fails_the_load_with_its_words(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path, call: str, doing: str
) -> None:
    fake.refusals[call] = "no such luck"
    with pytest.raises(LoadFailed, match=f"{fake.__name__}: {doing} failed: no such luck"):
        served(fake, cuda, models.affine(tmp_path))


@pytest.mark.parametrize("fake", ["tensorrt_rtx"], indirect=True)
@pytest.mark.parametrize(
    "call", ["create_runtime_config", "create_runtime_cache", "set_runtime_cache"]
)
def test_whatever_is_refused_at_load_fails_it(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path, call: str
) -> None:
    fake.refusals[call] = "no such luck"
    with pytest.raises(LoadFailed, match="function f: tensorrt_rtx: starting failed: no such luck"):
        served(fake, cuda, models.affine(tmp_path))


def test_what_is_refused_while_it_serves_fails_the_batch_and_no_other(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    path = models.dynamic_image(tmp_path)
    given = {"x": shapes([-1, 3, 1, 1], [-1, 3, 16, 16], [-1, 3, 32, 32])}
    with served(fake, cuda, path, batch_max=1, args={"shapes": given}) as one:
        for call in ("set_input_shape", "set_tensor_address", "execute_async_v3"):
            fake.refusals = {call: "no such luck"}
            with pytest.raises(Internal, match="failed: no such luck"):
                one.infer({"x": random(1, 3, 7, 7)})
            fake.refusals = {}
            assert one.infer({"x": random(1, 3, 8, 8)})["y"].shape == (1, 2, 8, 8)


def test_rtx_says_what_can_be_captured_and_keeps_what_it_compiles(
    cuda: _native.CudaDevice,
    tmp_path: Path,
    cached: PlanCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rtx = FakeTensorRt("tensorrt_rtx", "1.4.0.76")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)  # type: ignore[arg-type]
    rtx.refusals["is_stream_capturable"] = "yes"
    path, x = models.affine(tmp_path), random(1, 8)
    with served(rtx, cuda, path, batch_max=1, lanes=1) as one:
        assert one.pump.counters()["python_calls"] == 0
        one.infer({"x": x})
        assert one.pump.counters()["python_calls"] == 1
    assert "tensorrt_rtx says that it cannot be" in caplog.text
    (compiled,) = cached.directory.glob("*.jit")
    assert compiled.read_bytes() == b"k"  # of one context
    rtx.refusals = {}
    with served(rtx, cuda, path, batch_max=1, lanes=1) as one:
        one.infer({"x": x})
    assert compiled.read_bytes() == b"kk"
    rtx.refusals = {"deserialize": "of another driver", "serialize": "no such luck"}
    with served(rtx, cuda, path, batch_max=1, lanes=1) as one:
        one.infer({"x": x})
    assert compiled.read_bytes() == b"kk"
    assert "what is compiled is not kept: " in caplog.text
    (plan,) = cached.plans()
    assert cached.drop(plan.name) > 2
    assert list(cached.directory.glob("*.jit")) == []


def test_it_is_measured_as_it_is_served(
    fake: FakeTensorRt, cuda: _native.CudaDevice, tmp_path: Path
) -> None:
    spec = FunctionSpec("f", engine=fake.__name__, model=str(models.affine(tmp_path)), batch_max=4)
    engine, store = TensorRtEngine(fake.__name__), WeightStore(cuda)
    signature = engine.load(spec, GpuDevice(cuda, (0,), store))
    times = Timing(engine, spec, signature, cuda).measure(Measure(4, 3))
    assert (times.bucket, len(times.each_us)) == (4, 3)
    assert fake.captured == [2]
    assert isinstance(engine.prepare(0, 4), _native.CudaGraph)
    assert not isinstance(engine.prepare(0, 2), _native.CudaGraph)
    engine.close()
    engine.close()
    store.close()
