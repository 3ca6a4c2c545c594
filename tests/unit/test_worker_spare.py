"""The worker process as a spare: prepared first, then a function's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import FailedPrecondition, InvalidArgument
from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests import models
from tests.worker_process import CPUS, WorkerProcess

TELLS = """
import os
import sys

import numpy as np

class Tells:
    '''Says what it was given.'''
    inputs = [("x", "FP32", [-1, 8])]
    outputs = [("given", "BYTES", [-1, 1])]

    def setup(self):
        print("printed", file=sys.stdout, flush=True)
        print("complained", file=sys.stderr, flush=True)

    def infer(self, inputs):
        given = os.environ["CUDA_VISIBLE_DEVICES"]
        return {"given": np.full((len(inputs["x"]), 1), given, object)}
"""
X = {"x": np.zeros((1, 8), np.float32)}


@pytest.fixture
def log_fd(tmp_path: Path):
    fd = os.open(tmp_path / "function.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def libraries(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_it_has_the_libraries_and_no_device_and_ends_with_its_daemon() -> None:
    with WorkerProcess() as worker:
        hello, _ = worker.connect()
        assert hello.worker == messages.WorkerState()
        assert "onnxruntime" not in libraries(worker.pid)
        worker.request(messages.Prepare("onnxruntime"), messages.Ok)
        assert "onnxruntime" in libraries(worker.pid)
        assert "libcuda" not in libraries(worker.pid)
        worker.disconnect()
        assert worker.wait_exit() == 0


def test_it_becomes_a_function_s_worker(tmp_path: Path, log_fd: int) -> None:
    (tmp_path / "tells_code.py").write_text(TELLS)
    spec = FunctionSpec(
        "tells", engine="python", python="tells_code:Tells", python_path=str(tmp_path)
    )
    with WorkerProcess() as worker:
        worker.connect()
        worker.request(messages.Prepare("python"), messages.Ok)
        order = messages.Assign({"CUDA_VISIBLE_DEVICES": "GPU-1"})
        worker.request(order, messages.Ok, [log_fd])
        worker.serve(spec)
        assert worker.infer(X)["given"].tolist() == [[b"GPU-1"]]
        log = (tmp_path / "function.log").read_text()
        assert "printed" in log
        assert "complained" in log
        assert "complained" not in worker.log.read_text()


def test_its_threads_run_on_the_device_s_cores(tmp_path: Path) -> None:
    spec = FunctionSpec("affine", model=str(models.affine(tmp_path)), threads=2)
    with WorkerProcess() as worker:
        worker.connect()
        worker.request(messages.Prepare("onnxruntime"), messages.Ok)
        worker.request(messages.Load(spec, 100.0, "none", CPUS[:1]), messages.Loaded)
        tasks = [int(task.name) for task in Path(f"/proc/{worker.pid}/task").iterdir()]
        assert {tuple(os.sched_getaffinity(task)) for task in tasks} == {(CPUS[0],)}


def test_what_is_refused(tmp_path: Path, log_fd: int) -> None:
    spec = FunctionSpec("affine", model=str(models.affine(tmp_path)))
    with WorkerProcess() as worker:
        worker.connect()
        with pytest.raises(FailedPrecondition, match="there is no engine 'nothing'"):
            worker.request(messages.Prepare("nothing"), messages.Ok)
        with pytest.raises(InvalidArgument, match="Assign must carry 1 descriptor"):
            worker.request(messages.Assign({}), messages.Ok)
        worker.request(messages.Load(spec, 100.0, "none", CPUS), messages.Loaded)
        for order, fds in ((messages.Prepare("python"), ()), (messages.Assign({}), (log_fd,))):
            with pytest.raises(FailedPrecondition, match="this worker is loaded"):
                worker.request(order, messages.Ok, fds)
