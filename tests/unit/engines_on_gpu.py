"""Engines on a GPU of stand-ins. Run by test_engines_gpu.py, in a process that finds only these."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.messages import Measure
from gslice.worker.engines import make_engine
from gslice.worker.engines.device_arrays import DeviceArray, device_output
from gslice.worker.engines.python import PythonEngine
from gslice.worker.engines.python_gpu import GpuTensors
from gslice.worker.gpu import GpuDevice
from gslice.worker.timing import Timing
from gslice.worker.weights import WeightStore
from tests.served import Served

ROOT = str(Path(__file__).parents[2])

USER = '''
import ctypes
import numpy as np

driver = ctypes.CDLL("libcuda.so.1")

def host(array):
    """Device memory of the stand-in is memory of the process."""
    assert driver.cuStreamSynchronize(ctypes.c_void_p(array.stream)) == 0
    kind = np.dtype(array.__cuda_array_interface__["typestr"])
    count = int(np.prod(array.shape))
    memory = (ctypes.c_byte * (count * kind.itemsize)).from_address(array.pointer)
    return np.frombuffer(memory, kind).reshape(array.shape)

class Interface:
    """An array of a library that knows the CUDA Array Interface only."""
    def __init__(self, values, **changes):
        self.size = values.nbytes
        memory = ctypes.c_void_p()
        assert driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(self.size)) == 0
        self.pointer = memory.value
        ctypes.memmove(self.pointer, values.ctypes.data, self.size)
        self.__cuda_array_interface__ = {
            "version": 3, "shape": values.shape, "typestr": values.dtype.str,
            "data": (self.pointer, False), "strides": None, "stream": None, **changes,
        }

class Scale:
    """In place, given back as it is; a NumPy array beside it."""
    inputs = [("x", "FP32", [-1, 4])]
    outputs = [("y", "FP32", [-1, 4]), ("sum", "FP32", [-1])]
    def infer(self, inputs):
        x = inputs["x"]
        assert self.stream == x.stream
        values = host(x)
        values *= 2
        return {"y": x, "sum": values.sum(1)}

class Above:
    """The indices of what is above 0: their number is known when it has run."""
    inputs = [("x", "FP32", [-1])]
    outputs = [("at", "INT64", [-1, 1])]
    batch_max = 0
    def infer(self, inputs):
        self.kept = Interface(np.argwhere(host(inputs["x"]) > 0), stream=1)
        return {"at": self.kept}

class Wrong:
    inputs = [("case", "INT64", [1])]
    outputs = [("y", "FP32", [2])]
    def infer(self, inputs):
        good = np.ones(2, np.float32)
        (case,) = host(inputs["case"])
        return {"y": [
            good,
            Interface(good, strides=(8,)),
            Interface(good, typestr="<c8"),
            Interface(np.ones(2, np.int32)),
            Interface(np.ones(3, np.float32)),
        ][case]}

class Text:
    inputs = outputs = [("x", "BYTES", [-1])]
    def infer(self, inputs): ...
'''


@pytest.fixture
def cuda() -> Iterator[_native.CudaDevice]:
    device = _native.CudaDevice(0, 2)
    yield device
    device.close()


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gpu_user.py").write_text(USER)
    return tmp_path


def python(folder: Path, name: str, **options: Any) -> FunctionSpec:
    python = f"gpu_user:{name}"
    return FunctionSpec("f", engine="python", python=python, python_path=str(folder), **options)


# ---- the user's class ------------------------------------------------------------------------


def test_the_users_class_gets_device_arrays_and_gives_any_kind(
    cuda: _native.CudaDevice, user: Path
) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with Served(python(user, "Scale"), cuda=cuda) as served:
        for _ in range(3):
            answer = served.infer({"x": x})
            np.testing.assert_array_equal(answer["y"], x * 2)
            np.testing.assert_array_equal(answer["sum"], x.sum(1) * 2)
        several = served.infer_together([{"x": x[:1]}, {"x": x[1:]}])
        np.testing.assert_array_equal(np.concatenate([a["y"] for a in several]), x * 2)


def test_an_output_of_unknown_shape_comes_from_where_it_lies(
    cuda: _native.CudaDevice, user: Path
) -> None:
    with Served(python(user, "Above"), cuda=cuda) as served:
        for x in (np.array([1, -1, 2], np.float32), np.array([-1, 3], np.float32)):
            np.testing.assert_array_equal(served.infer({"x": x})["at"], np.argwhere(x > 0))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (1, "TypeError: output 'y': it is not contiguous; make a contiguous copy of it"),
        (2, "TypeError: output 'y': arrays of <c8 are none of KServe's"),
        (3, "output 'y' is INT32, the signature says FP32"),
        (4, r"output 'y' has shape \[3\], the signature says \[2\]"),
    ],
)
def test_what_is_wrong_fails_the_request_and_no_other(
    cuda: _native.CudaDevice, user: Path, case: int, message: str
) -> None:
    with Served(python(user, "Wrong"), cuda=cuda) as served:
        with pytest.raises(Internal, match=f'^function "f": {message}$'):
            served.infer({"case": np.array([case])})
        assert served.infer({"case": np.array([0])})["y"].tolist() == [1, 1]


def test_text_is_refused_at_load(cuda: _native.CudaDevice, user: Path) -> None:
    with pytest.raises(LoadFailed, match=r"'x' is BYTES, which stay on the CPU \(put this"):
        PythonEngine().load(python(user, "Text"), GpuDevice(cuda, (0,), WeightStore(cuda)))


def test_the_order_of_streams_is_asked_for_where_they_differ(cuda: _native.CudaDevice) -> None:
    asked: list[tuple[int, int]] = []
    array = DeviceArray(
        4096, (2, 3), "BF16", 7, lambda before, after: asked.append((before, after))
    )
    for stream in (7, -1, 9, None):
        capsule = array.__dlpack__(stream=stream)
        assert type(capsule).__name__ == "PyCapsule"
    assert asked == [(7, 9), (7, 1)]  # no stream means the legacy default one
    output = device_output(array, 8, lambda *_: None)
    assert output is not None
    assert (output.pointer, output.shape, output.dtype) == (4096, (2, 3), "BF16")
    assert asked[-1] == (7, 8)
    for asking in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            array.__dlpack__(**asking)
    cuda.order(cuda.lane_stream(0), cuda.lane_stream(1))  # and the driver takes it


def test_onnxruntime_says_that_it_stays_on_the_cpu(cuda: _native.CudaDevice) -> None:
    with pytest.raises(LoadFailed, match="engine onnxruntime runs on the CPU only"):
        make_engine("onnxruntime").load(
            FunctionSpec("f", model="m.onnx"), GpuDevice(cuda, (0,), WeightStore(cuda))
        )


def test_what_is_measured_is_copied_in_and_out(cuda: _native.CudaDevice, user: Path) -> None:
    spec, engine, store = python(user, "Scale"), PythonEngine(), WeightStore(cuda)
    signature = engine.load(spec, GpuDevice(cuda, (0,), store))
    times = Timing(engine, spec, signature, cuda).measure(Measure(2, 5))
    assert len(times.each_us) == 5
    # One run to warm up and six more: each copies in, and the class itself twice. Those six have
    # both outputs copied to the host.
    assert cuda.counters()["copies"] == 7 * 3 + 6 * 2
    engine.close()
    store.close()


# ---- torch, its CPU in place of its GPU ------------------------------------------------------


def torch_served(
    cuda: _native.CudaDevice,
    name: str,
    graphs: str,
    store: WeightStore | None = None,
    **options: Any,
) -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_engine import TorchEngine
    from tests.fakes.torch_gpu import FakeGpuMemory

    memory = FakeGpuMemory(graphs)
    spec = FunctionSpec(
        "f", engine="torch", python=f"tests.torch_models:{name}", python_path=ROOT, **options
    )
    served = Served(spec, TorchEngine(lambda _: memory), cuda, store)
    return served, memory


@pytest.mark.parametrize("graphs", ["handle", "replay", "refused"])
def test_torch_answers_the_same_with_and_without_graphs(
    cuda: _native.CudaDevice, graphs: str, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.random.default_rng(5).standard_normal((7, 8)).astype(np.float32)
    served, memory = torch_served(cuda, "Affine", graphs, batch_max=8)
    with served:
        buckets = (1, 2, 4, 8)
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 8, buckets
        )
        answers = [served.infer({"x": x[:rows]})["y"] for rows in (7, 1, 3, 2, 7)]
        counters = served.pump.counters()
        tids = served.pump.lane_tids()
    expected = torch_affine(x)
    for answer in answers:
        np.testing.assert_allclose(answer, expected[: len(answer)], rtol=1e-5)
    captures = [(lane, bucket) for lane in range(2) for bucket in buckets]
    assert memory.captured == ([] if graphs == "refused" else captures)
    assert memory.ran == [each for each in captures for _ in range(2)]
    assert counters["batches"] == 5
    # The pump replays by itself what it has a handle of, and then needs no threads for Python.
    assert counters["python_calls"] == (0 if graphs == "handle" else 5)
    assert (len(tids) == 0) == (graphs == "handle")
    refusals = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert refusals == (
        [
            "nothing more is captured, for a batch of 1 rows cannot be: RuntimeError: "
            "operation not permitted when stream is capturing"
        ]
        if graphs == "refused"
        else []
    )


@pytest.mark.parametrize("graphs", ["handle", "replay", "refused"])
def test_torch_is_measured_as_it_is_served(cuda: _native.CudaDevice, graphs: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_engine import TorchEngine
    from tests.fakes.torch_gpu import FakeGpuMemory

    memory, store = FakeGpuMemory(graphs), WeightStore(cuda)
    spec = FunctionSpec(
        "f", engine="torch", python="tests.torch_models:Affine", python_path=ROOT, batch_max=8
    )
    engine = TorchEngine(lambda _: memory)
    signature = engine.load(spec, GpuDevice(cuda, (0,), store))
    times = Timing(engine, spec, signature, cuda).measure(Measure(4, 3))
    assert (times.bucket, len(times.each_us)) == (4, 3)
    assert memory.captured == ([] if graphs == "refused" else [(0, 4)])
    assert memory.ran == [(0, 4)] * (2 + 1 + 3)
    is_plain = engine.callable(0, 4) is engine.callable(0, 8)
    assert is_plain == (graphs == "refused"), "a graph is replayed, not run anew"
    assert isinstance(engine.prepare(0, 4), _native.CudaGraph) == (graphs == "handle")
    engine.close()
    store.close()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"channels_last": True}])
def test_torch_has_its_parameters_where_other_workers_have_them(
    cuda: _native.CudaDevice, options: dict[str, Any]
) -> None:
    image = np.random.default_rng(9).standard_normal((2, 3, 16, 16)).astype(np.float32)
    makes = WeightStore(cuda, "model")
    first, _ = torch_served(cuda, "Image", "replay", makes, **options)
    with first:
        expected = first.infer({"image": image})["score"]
        assert makes.shared is not None
        assert makes.made_bytes == makes.shared.size_bytes
        shared, fd = makes.shared, os.dup(makes.fd)  # which is enough to keep them
    takes = WeightStore(cuda, "model", shared, fd)
    second, _ = torch_served(cuda, "Image", "replay", takes, **options)
    with second:
        assert (takes.shared, takes.made_bytes, takes.own) == (shared, 0, "")
        np.testing.assert_array_equal(second.infer({"image": image})["score"], expected)
    os.close(fd)


def test_parameters_lie_as_their_module_had_them(cuda: _native.CudaDevice) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_weights import place_parameters
    from tests.fakes.torch_gpu import FakeGpuMemory

    module = torch.nn.Module()
    module.last = torch.nn.Parameter(
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), requires_grad=False
    )
    module.half = torch.nn.Parameter(torch.randn(5).bfloat16())
    module.tied = module.half
    module.scalar = torch.nn.Parameter(torch.tensor(3.0))
    module.gaps = torch.nn.Parameter(torch.randn(4, 4)[:, ::2])
    module.empty = torch.nn.Parameter(torch.empty(0))
    module.register_buffer("buffer", torch.ones(2))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    strides = {name: p.stride() for name, p in module.named_parameters()}
    store = WeightStore(cuda, "model")
    place_parameters(module, FakeGpuMemory(), store)
    assert store.shared is not None
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name])
        if name != "gaps":
            assert parameter.stride() == strides[name]
        if name != "empty":
            assert parameter.data_ptr() % 256 == 0
    assert module.tied is module.half
    module.buffer.add_(1)  # is the module's own
    del module
    store.close()


def test_torch_is_put_back_on_its_stream_after_a_capture_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_cuda import CudaMemory

    current = ["default"]

    class Capture:
        """As torch.cuda.graph: the end of the capture fails before the stream is left."""

        def __init__(self, graph: object, stream: str, **_: object) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            current[0] = self.stream

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("the capture was invalidated")

    for name, stand_in in {
        "is_available": lambda: True,
        "ExternalStream": lambda handle, device: f"stream {handle}",
        "CUDAGraph": lambda: None,
        "default_generators": [None],
        "graph_pool_handle": lambda: (0, 1),
        "current_stream": lambda device: current[0],
        "set_stream": lambda stream: current.__setitem__(0, stream),
        "graph": Capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    memory = CudaMemory(types.SimpleNamespace(name="H100", ordinal=0))  # type: ignore[arg-type]
    batch: Any = types.SimpleNamespace(lane=0, stream=7)
    with pytest.raises(RuntimeError, match="the capture was invalidated"):
        memory.capture(batch, lambda _: None)
    assert current == ["default"]


def test_torch_runs_shapes_that_it_does_not_know_ahead_as_a_call(
    cuda: _native.CudaDevice,
) -> None:
    a, b = (np.random.default_rng(6).standard_normal((2, 2, 4))).astype(np.float32)
    served, memory = torch_served(cuda, "Pair", "handle")
    with served:
        answer = served.infer({"a": a, "b": b})
        assert served.pump.counters()["python_calls"] == 1
    assert memory.captured == []
    np.testing.assert_array_equal(answer["total"], a - 2 * b)
    np.testing.assert_array_equal(answer["above"], np.argwhere(a[0] > 0))


def test_a_torch_without_cuda_says_so(cuda: _native.CudaDevice) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    spec = FunctionSpec("f", engine="torch", model="m.pt2")
    with pytest.raises(LoadFailed, match=r"cannot use NVIDIA H100 .*: it is built without CUDA"):
        make_engine("torch").load(spec, GpuDevice(cuda, (0,), WeightStore(cuda)))


def torch_affine(x: np.ndarray) -> np.ndarray:
    import torch

    from tests.torch_models import Affine

    with torch.inference_mode():
        return Affine()(torch.from_numpy(x)).numpy()


def test_current_streams_of_libraries_are_the_lanes(
    cuda: _native.CudaDevice, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []

    class ExternalStream:
        def __init__(self, handle: int) -> None:
            self.handle = handle

        def __enter__(self) -> None:
            entered.append(self.handle)

        def __exit__(self, *_: object) -> None:
            entered.append(-self.handle)

    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(ExternalStream=ExternalStream)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with Served(python(user, "Scale", lanes=1), cuda=cuda) as served:
        served.infer({"x": np.ones((1, 4), np.float32)})
    stream = cuda.lane_stream(0)
    assert entered == [stream, -stream] * 2  # warm-up, and the request


@pytest.mark.parametrize(
    ("loaded", "order"),
    [
        ((), "before, call, after"),
        (("cupy",), "call"),
        (("cupy", "pycuda"), "before, call, after"),
        (("cupy", "numba.cuda"), "before, call, after"),
    ],
)
def test_the_default_stream_is_ordered_for_libraries_without_a_current_one(
    monkeypatch: pytest.MonkeyPatch, loaded: tuple[str, ...], order: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in loaded:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    seen: list[str] = []
    names = {(7, 1): "before", (1, 7): "after"}
    cuda = types.SimpleNamespace(order=lambda *streams: seen.append(names[streams]))

    class Fails:
        def infer(self, inputs: object) -> None:
            seen.append("call")
            raise ValueError("unlucky")

    batch: Any = types.SimpleNamespace(stream=7)
    with pytest.raises(ValueError, match="unlucky"):
        GpuTensors(cuda, Fails()).infer(batch, {})  # type: ignore[arg-type]
    assert ", ".join(seen) == order


def test_a_torch_that_cannot_use_the_gpu_is_left_alone(
    cuda: _native.CudaDevice, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = types.ModuleType("torch")
    torch.version = types.SimpleNamespace(cuda="99.0")  # type: ignore[attr-defined]
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    with Served(python(user, "Scale", lanes=1), cuda=cuda) as served:
        np.testing.assert_array_equal(served.infer({"x": np.ones((1, 4), np.float32)})["y"], 2)


assert ctypes.CDLL("libcuda.so.1"), "run by test_engines_gpu.py"
