"""Weights of the python engine on a GPU of stand-ins: one worker makes them, others map them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests.fakes.gpu import FakeGpu, make_gpus
from tests.worker_process import CPUS, WorkerProcess

MODEL = "model-1"
BLOCK_BYTES = 4 << 20  # whole pages of 2 MiB
NOT_SUPPORTED = 801
X = {"x": np.ones((2, 4), np.float32)}

USER = """
import ctypes
import numpy as np

class Weighted:
    '''y = x * factor * its index among three million.'''
    inputs = outputs = [("x", "FP32", [-1, 4])]

    def load_weights(self, factor, count=600_000, writes=False):
        self.writes = writes
        return {"odd": np.arange(3, dtype=np.uint8), "w": np.full((count, 1), factor, np.float32)}

    def infer(self, inputs):
        x, w = inputs["x"], self.weights["w"]
        driver = ctypes.CDLL("libcuda.so.1")
        assert driver.cuStreamSynchronize(ctypes.c_void_p(self.stream)) == 0
        if self.writes and x.shape[0] == 3:
            ctypes.c_float.from_address(w.pointer).value = 0.0
        assert self.weights["odd"].pointer % 256 == w.pointer % 256 == 0
        assert w.__cuda_array_interface__["stream"] is None
        first, last = ((ctypes.c_float * w.shape[0]).from_address(w.pointer)[i] for i in (0, -1))
        assert first == last
        count = x.shape[0] * x.shape[1]
        values = np.frombuffer((ctypes.c_float * count).from_address(x.pointer), np.float32)
        return {"x": (values * np.float32(first)).reshape(x.shape)}
"""


class Workers:
    """Workers of one GPU, and the messages that a daemon would exchange with them."""

    def __init__(self, fake: FakeGpu, folder: Path, stack: ExitStack) -> None:
        (folder / "weighted_user.py").write_text(USER)
        self.fake = fake
        self._folder = folder
        self._stack = stack

    def start(self) -> WorkerProcess:
        worker = WorkerProcess(environment=self.fake.environment)
        self._stack.enter_context(worker)
        worker.connect()
        return worker

    def load(
        self,
        worker: WorkerProcess,
        weights: messages.Weights | None = None,
        fds: tuple[int, ...] = (),
        model: str = MODEL,
        **args: object,
    ) -> tuple[messages.Loaded, list[int]]:
        spec = FunctionSpec(
            "f",
            engine="python",
            python="weighted_user:Weighted",
            python_path=str(self._folder),
            args={"factor": 3.0, **args},
        )
        (gpu,) = self.fake.gpus
        grant = messages.GpuGrant(gpu.uuid, 132)
        order = messages.Load(spec, 100.0, "none", CPUS, grant, model=model, weights=weights)
        loaded, given = worker.ask(order, messages.Loaded, fds)
        for fd in given:
            self._stack.callback(os.close, fd)
        self._spec = spec
        return loaded, given

    def answers(self, worker: WorkerProcess, loaded: messages.Loaded) -> float:
        worker.attach(self._spec, loaded.signature)
        (value,) = set(worker.infer(X)["x"].flat)
        return float(value)


@pytest.fixture
def workers(fake_gpu: FakeGpu, tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(fake_gpu, tmp_path, stack)


def end(worker: WorkerProcess) -> None:
    assert worker.channel is not None
    worker.channel.send(messages.Exit())
    assert worker.wait_exit() == 0


def test_the_second_worker_maps_what_the_first_has_made(workers: Workers) -> None:
    fake, first, second = workers.fake, workers.start(), workers.start()
    made, fds = workers.load(first)
    assert made.weights is not None
    assert (made.weights.model, made.weights.size_bytes) == (MODEL, BLOCK_BYTES)
    assert made.weights.maker == first.pid
    assert made.own_weights == ""
    assert (made.memory.shared_bytes, made.memory.weights_bytes) == (BLOCK_BYTES, 0)
    taken, more = workers.load(second, made.weights, tuple(fds))
    assert (taken.weights, taken.own_weights, more) == (made.weights, "", [])
    assert (taken.memory.shared_bytes, taken.memory.weights_bytes) == (BLOCK_BYTES, 0)
    assert (fake.total("created"), fake.total("imported")) == (1, 1)
    assert fake.shared_bytes() == BLOCK_BYTES
    assert fake.counters(second.pid).get("bytes.h2d", 0) == 0
    os.kill(first.pid, signal.SIGKILL)
    first.wait_exit()
    assert workers.answers(second, taken) == 3.0
    hello, told = second.connect()
    assert len(told) == 2
    assert hello.worker is not None
    assert hello.worker.weights == made.weights
    end(second)
    left = fake.counters(second.pid)
    assert {k: v for k, v in left.items() if k.startswith(("live.", "leaked.")) and v} == {}


def test_a_stray_write_faults(workers: Workers) -> None:
    worker = workers.start()
    loaded, _ = workers.load(worker, writes=True)
    assert workers.answers(worker, loaded) == 3.0
    worker.submit({"x": np.ones((3, 4), np.float32)})
    assert worker.wait_exit() == -11  # SIGSEGV: on a GPU it would be a fault of the device


def test_weights_of_another_shape_are_not_taken(workers: Workers) -> None:
    made, fds = workers.load(workers.start())
    other = workers.start()
    loaded, more = workers.load(other, made.weights, tuple(fds), count=5)
    assert (loaded.weights, more) == (None, [])
    assert loaded.own_weights == "the tensors of the model are not those that are shared"
    assert loaded.memory.shared_bytes == 0
    assert workers.answers(other, loaded) == 3.0
    assert "the weights are a copy of this worker's own: the tensors" in other.log.read_text()


@pytest.mark.parametrize(
    "entry", ["cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"]
)
def test_what_cannot_be_mapped_is_copied(workers: Workers, entry: str) -> None:
    made, fds = workers.load(workers.start())
    workers.fake.fail(entry, NOT_SUPPORTED)
    other = workers.start()
    loaded, more = workers.load(other, made.weights, tuple(fds))
    assert (loaded.weights, more) == (None, [])
    assert f"{entry}: CUDA_ERROR_NOT_SUPPORTED (801): " in loaded.own_weights
    assert loaded.memory.weights_bytes >= 2_400_000
    assert workers.answers(other, loaded) == 3.0


@pytest.mark.parametrize(("entry", "nth"), [("cuMemCreate", 1), ("cuMemSetAccess", 2)])
def test_what_cannot_be_shared_stays_its_own(workers: Workers, entry: str, nth: int) -> None:
    workers.fake.fail(entry, NOT_SUPPORTED, nth=nth)
    worker = workers.start()
    loaded, fds = workers.load(worker)
    assert (loaded.weights, fds) == (None, [])
    assert entry in loaded.own_weights
    assert workers.answers(worker, loaded) == 3.0


def test_a_gpu_that_exports_nothing(tmp_path: Path) -> None:
    with FakeGpu(make_gpus(1, exports_memory=0)) as fake, ExitStack() as stack:
        workers = Workers(fake, tmp_path, stack)
        worker = workers.start()
        loaded, fds = workers.load(worker)
        assert (loaded.weights, fds) == (None, [])
        assert "H100 80GB HBM3 exports no memory to other processes" in loaded.own_weights
        assert workers.answers(worker, loaded) == 3.0
        assert fake.total("cuMemCreate") == 0


def test_a_worker_that_is_to_keep_them_says_nothing(workers: Workers) -> None:
    worker = workers.start()
    loaded, fds = workers.load(worker, model="")
    assert (loaded.weights, loaded.own_weights, fds) == (None, "", [])
    assert workers.fake.shared_bytes() == 0
    assert workers.answers(worker, loaded) == 3.0
