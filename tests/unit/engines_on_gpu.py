"""Engines on a GPU of stand-ins. Run by test_engines_gpu.py, in a process that finds only these."""

from __future__ import annotations

import ctypes
import sys
import threading
import types
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import FailedPrecondition, Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.messages import Measure
from gslice.worker.engines.device_arrays import DeviceArray, device_output
from gslice.worker.engines.python import PythonEngine
from gslice.worker.engines.python_gpu import GpuTensors
from gslice.worker.gpu import GpuDevice
from gslice.worker.timing import Timing
from gslice.worker.warmup import warm_up
from gslice.worker.weights import WeightStore
from tests.served import Served

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


# ---- moves -----------------------------------------------------------------------------------


class Recorded:
    """y = x, as a graph of one copy a lane, which the pump replays without Python."""

    native = False
    trusts_zeros = True
    threads = 1

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self.executables: dict[int, int] = {}  # by lane

    def load(self, spec: FunctionSpec, device: object, known: object = None) -> Signature:
        tensor = (TensorSpec("x", "FP32", (-1, 4)),)
        return Signature(tensor, tensor, 1, (1,))

    def prepare(self, lane: int, bucket: int) -> Any:
        if lane in self.executables:
            return _native.CudaGraph(self.executables[lane], self)
        return self._copy

    def capture(self, batch: _native.WarmBatch) -> None:
        stream, graph, executable = ctypes.c_void_p(batch.stream), *map(ctypes.c_void_p, (0, 0))
        thread_local = 1  # the pump asks its events meanwhile
        self._call("cuStreamBeginCapture_v2", stream, thread_local)
        self._copy(batch)
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        self._call("cuGraphDestroy", graph)
        assert batch.lane not in self.executables
        self.executables[batch.lane] = executable.value or 0

    def callable(self, lane: int, bucket: int) -> Any:
        return self._copy

    def forget(self, lanes: Collection[int]) -> None:
        for lane in lanes:
            self._call("cuGraphExecDestroy", ctypes.c_void_p(self.executables.pop(lane)))

    def close(self) -> None:
        self.forget(list(self.executables))

    def _copy(self, batch: Any) -> None:
        to, of = ctypes.c_void_p(batch.output_ptr(0)), ctypes.c_void_p(batch.input_ptr(0))
        stream = ctypes.c_void_p(batch.stream)
        self._call("cuMemcpyDtoDAsync_v2", to, of, ctypes.c_size_t(16), stream)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        assert code == 0, f"{function}: {code}"


def test_graphs_are_made_anew_where_a_function_moves_to_while_it_serves() -> None:
    groups = _native.SmGroups(0)
    cuda = _native.CudaDevice(0, 2, groups=groups, chosen=[0, 1])
    spec, engine = FunctionSpec("f", engine="recorded", lanes=2), Recorded()
    served = Served(spec, engine, cuda)
    answered, done = [0], threading.Event()

    def load() -> None:
        while not done.is_set():
            x = np.full((1, 4), answered[0], np.float32)
            np.testing.assert_array_equal(served.infer({"x": x})["x"], x)
            answered[0] += 1

    client = threading.Thread(target=load)
    client.start()
    try:
        for chosen in ([0, 1, 2], [4], [2, 7]):
            left = range(cuda.first_lane, cuda.first_lane + 2)
            assert sorted(engine.executables) == list(left)
            spare = range(cuda.spare_lane, cuda.spare_lane + 2)
            served.move(groups, chosen)
            assert (cuda.first_lane, cuda.lane_sms) == (spare[0], 8 * len(chosen))
    finally:
        done.set()
        client.join()
    served.infer({"x": np.ones((1, 4), np.float32)})
    counters = served.pump.counters()
    assert counters["python_calls"] == 0
    assert counters["graph_launches"] == counters["batches"] == answered[0] + 1
    served.close()
    cuda.close()
    groups.close()
    with pytest.raises(FailedPrecondition, match="the groups of SMs are given back"):
        _native.CudaDevice(0, 1, groups=groups, chosen=[0])


def test_functions_of_a_process_capture_one_after_the_other(cuda: _native.CudaDevice) -> None:
    """Torch waits for all of the context before it captures, which would end another's capture."""
    meeting = threading.Barrier(2)

    class Meets(Recorded):
        def capture(self, batch: _native.WarmBatch) -> None:
            with pytest.raises(threading.BrokenBarrierError):
                meeting.wait(0.2)
            super().capture(batch)

    def load(lane: int) -> None:
        engine, spec = Meets(), FunctionSpec("f", engine="recorded")
        warm_up(engine, spec, engine.load(spec, None), cuda, [lane])
        engine.forget([lane])

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(load, lane) for lane in (0, 1)]:
            done.result()


def test_a_function_on_all_of_a_gpu_cannot_move(cuda: _native.CudaDevice, user: Path) -> None:
    groups = _native.SmGroups(0)
    with Served(python(user, "Scale"), cuda=cuda) as served:
        with pytest.raises(FailedPrecondition, match="only lanes on a part of a device can move"):
            cuda.prepare_move(groups, [0])
        with pytest.raises(FailedPrecondition, match="the device has no lanes to move to"):
            served.pump.move()
        np.testing.assert_array_equal(served.infer({"x": np.ones((1, 4), np.float32)})["y"], 2)
    groups.close()


# ---- streams of libraries --------------------------------------------------------------------


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

    freed: list[bool] = []
    pool = types.SimpleNamespace(free_all_blocks=lambda: freed.append(True))
    cupy: Any = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(ExternalStream=ExternalStream)
    cupy.get_default_memory_pool = lambda: pool
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with Served(python(user, "Scale", lanes=1), cuda=cuda) as served:
        served.infer({"x": np.ones((1, 4), np.float32)})
    stream = cuda.lane_stream(0)
    assert entered == [stream, -stream] * 2  # warm-up, and the request
    assert freed == [True]


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
