"""A worker on a GPU, over the stand-ins: what it was granted, what it measures, how it ends."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import FailedPrecondition, LoadFailed, ResourceExhausted
from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from gslice.worker import function
from tests.fakes.gpu import FakeGpu, Gpu
from tests.worker_process import CPUS, WorkerProcess

ILLEGAL_ADDRESS, OUT_OF_MEMORY = 700, 2
WEIGHT_BYTES = 3 << 30

USER = f'''
import ctypes
import numpy as np

class Scale:
    """y = 2 x, with weights that are only there."""
    inputs = outputs = [("x", "FP32", [-1, 4])]

    def setup(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        weights = ctypes.c_void_p()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(weights), ctypes.c_size_t({WEIGHT_BYTES}))
        assert code == 0, f"cuMemAlloc: {{code}}"

    def infer(self, inputs):
        x = inputs["x"]
        assert self.driver.cuStreamSynchronize(ctypes.c_void_p(self.stream)) == 0
        count = x.shape[0] * x.shape[1]
        values = np.frombuffer((ctypes.c_float * count).from_address(x.pointer), np.float32)
        return {{"x": (values * 2).reshape(x.shape)}}

class Filled(Scale):
    """y = 7 x; the weight is still on its way when setup returns."""

    def setup(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.weight = ctypes.c_void_p()
        assert self.driver.cuMemAlloc_v2(ctypes.byref(self.weight), ctypes.c_size_t(1)) == 0
        code = self.driver.cuMemsetD8Async(
            self.weight, ctypes.c_ubyte(7), ctypes.c_size_t(1), ctypes.c_void_p(0)
        )
        assert code == 0

    def infer(self, inputs):
        (doubled,) = super().infer(inputs).values()
        (weight,) = (ctypes.c_ubyte * 1).from_address(self.weight.value)
        return {{"x": doubled / 2 * np.float32(weight)}}

class Array:
    """An array of a library that says nothing of streams."""

    def __init__(self, driver, shape):
        self.size = 4 * int(np.prod(shape))
        memory = ctypes.c_void_p()
        assert driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(self.size)) == 0
        self.pointer = memory.value
        self.__cuda_array_interface__ = {{
            "version": 2, "shape": shape, "typestr": "<f4", "data": (self.pointer, False),
        }}

class OnTheDefaultStream(Scale):
    """y = x, copied on the legacy stream, and not waited for."""

    def infer(self, inputs):
        x = inputs["x"]
        y = Array(self.driver, x.shape)
        to, of, size = ctypes.c_void_p(y.pointer), ctypes.c_void_p(x.pointer), y.size
        code = self.driver.cuMemcpyDtoDAsync_v2(to, of, ctypes.c_size_t(size), ctypes.c_void_p(0))
        assert code == 0
        return {{"x": y}}

class Fails(Scale):
    """Its error is kept, and with it the frames that it came through, which have the device."""
    kept = []

    def setup(self):
        try:
            raise ValueError("no weights")
        except ValueError as error:
            self.kept.append(error)
            raise

class Text:
    inputs = outputs = [("x", "BYTES", [-1])]
    def infer(self, inputs): ...
'''

X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def worker(fake_gpu: FakeGpu) -> Iterator[WorkerProcess]:
    with WorkerProcess(environment=fake_gpu.environment) as worker:
        worker.connect()
        yield worker


def spec(folder: Path, name: str = "Scale") -> FunctionSpec:
    (folder / "gpu_worker_user.py").write_text(USER)
    python = f"gpu_worker_user:{name}"
    return FunctionSpec("scale", engine="python", python=python, python_path=str(folder))


def grant(gpu: Gpu, sms: int = 132) -> messages.GpuGrant:
    return messages.GpuGrant(gpu.uuid, sms)


def load(worker: WorkerProcess, spec: FunctionSpec, gpu: messages.GpuGrant) -> messages.Loaded:
    return worker.request(messages.Load(spec, 100.0, "none", CPUS, gpu), messages.Loaded)


def test_a_load_that_fails_ends_the_engine_before_the_streams_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    def fail(*_: object) -> None:
        raise LoadFailed("no such luck")

    engine = types.SimpleNamespace(load=fail, close=lambda: ended.append("engine"))
    cuda = types.SimpleNamespace(memory_free_bytes=lambda: 0)
    gpu = types.SimpleNamespace(cuda=cuda, weights=None, close=lambda: ended.append("gpu"))
    monkeypatch.setattr(function, "make_engine", lambda _: engine)
    monkeypatch.setattr(function, "WorkerGpu", lambda *_: gpu)
    order = messages.Load(FunctionSpec("f"), 100.0, "none", CPUS, messages.GpuGrant("", 132))
    with pytest.raises(LoadFailed, match="no such luck"):
        function.ServedFunction(order, [])
    assert ended == ["engine", "gpu"]


def test_from_the_first_word_to_the_last(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    (gpu,) = fake_gpu.gpus
    ready = worker.serve(spec(tmp_path), limiter="none", gpu=grant(gpu))
    assert (ready.share_effective_percent, ready.limiter) == (100.0, "none")
    assert WEIGHT_BYTES <= ready.memory.weights_bytes < WEIGHT_BYTES + (64 << 20)
    assert ready.memory.workspace_bytes > 0
    for _ in range(3):
        np.testing.assert_array_equal(worker.infer(X)["x"], X["x"] * 2)
    with pytest.raises(FailedPrecondition, match="limiter none cannot change a share in place"):
        worker.request(messages.SetShare(50.0), messages.ShareSet)
    hello, fds = worker.connect()
    assert len(fds) == 1
    assert hello.worker is not None
    assert hello.worker.memory == ready.memory
    assert fake_gpu.processes() == [worker.pid]
    assert worker.channel is not None
    worker.channel.send(messages.Exit())
    assert worker.wait_exit() == 0
    log = worker.log.read_text()
    assert f"{gpu.name}, 132 of 132 SMs, 100 % by none" in log
    assert "Traceback" not in log


def test_what_loading_has_enqueued_comes_before_the_first_batch(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    fake_gpu.delay("memset", 300_000)
    worker.serve(spec(tmp_path, "Filled"), limiter="none", gpu=grant(fake_gpu.gpus[0]))
    np.testing.assert_array_equal(worker.infer(X)["x"], X["x"] * 7)


@pytest.mark.parametrize("late", ["h2d", "d2d"])
def test_what_the_users_class_does_on_the_default_stream_comes_in_order(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path, late: str
) -> None:
    worker.serve(spec(tmp_path, "OnTheDefaultStream"), limiter="none", gpu=grant(fake_gpu.gpus[0]))
    fake_gpu.delay(late, 100_000)
    for factor in (1, 2, 3):
        x = X["x"] * np.float32(factor)
        np.testing.assert_array_equal(worker.infer({"x": x})["x"], x)


def test_the_share_is_what_the_process_may_use_of_the_whole_gpu(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    (gpu,) = fake_gpu.gpus
    ready = worker.serve(spec(tmp_path), limiter="none", gpu=grant(gpu, sms=4 * gpu.sms))
    assert ready.share_effective_percent == 25.0


def test_another_gpu_than_the_granted_is_refused(worker: WorkerProcess, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"the worker sees GPU-0.*, not GPU-other"):
        load(worker, spec(tmp_path), messages.GpuGrant("GPU-other", 132))


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    with FakeGpu(cuda=False) as fake, WorkerProcess(environment=fake.environment) as worker:
        worker.connect()
        with pytest.raises(FailedPrecondition, match=r"no NVIDIA driver: libcuda\.so\.1"):
            load(worker, spec(tmp_path), grant(fake.gpus[0]))


def test_no_memory_for_its_context_is_said(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    fake_gpu.fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)
    with pytest.raises(ResourceExhausted, match="CUDA_ERROR_OUT_OF_MEMORY"):
        load(worker, spec(tmp_path), grant(fake_gpu.gpus[0]))


def test_no_memory_for_its_weights_is_said(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    fake_gpu.fail("cuMemAlloc_v2", OUT_OF_MEMORY, times=1000)
    with pytest.raises(FailedPrecondition, match=r"function scale: .*Scale: .*cuMemAlloc: 2"):
        load(worker, spec(tmp_path), grant(fake_gpu.gpus[0]))


def test_text_is_refused_at_load(worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="'x' is BYTES, which stay on the CPU"):
        load(worker, spec(tmp_path, "Text"), grant(fake_gpu.gpus[0]))


def test_a_load_that_fails_gives_the_gpu_back(
    worker: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    with pytest.raises(FailedPrecondition, match="no weights"):
        load(worker, spec(tmp_path, "Fails"), grant(fake_gpu.gpus[0]))
    counters = fake_gpu.counters(worker.pid)
    assert counters["cuDevicePrimaryCtxRetain"] == 1
    left = {name: count for name, count in counters.items() if name.startswith("live.") and count}
    assert left == {}


def test_a_lost_device_ends_it_and_leaves_its_claims(tmp_path: Path) -> None:
    with FakeGpu() as fake, WorkerProcess(environment=fake.environment) as worker:
        worker.connect()
        worker.serve(spec(tmp_path), limiter="none", gpu=grant(fake.gpus[0]))
        np.testing.assert_array_equal(worker.infer(X)["x"], X["x"] * 2)
        fake.fail("h2d", ILLEGAL_ADDRESS)
        worker.submit(X)
        assert worker.wait_exit() == messages.EXIT_DEVICE_LOST
        log = worker.log.read_text()
        assert "ERROR gslice.worker.worker: the device is lost: " in log
        assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in log
        assert worker.segment is not None
        counts = worker.segment.counts()
        assert (counts["claimed"], counts["done"]) == (1, 0)
