"""The worker process: orders, adoption, the orphan's grace, signals, and the share it keeps."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
)
from gslice.core.types import FunctionSpec
from gslice.device.limiter import availability
from gslice.ipc import messages
from gslice.ipc.process import resident_bytes, start_ticks
from tests import models
from tests.worker_process import CPUS, WorkerProcess

X = {"x": np.arange(8, dtype=np.float32).reshape(1, 8)}

needs_cgroups = pytest.mark.skipif(not availability()[0].available, reason=availability()[0].reason)

WAITER = '''
class Waiter:
    """Says in one FIFO that it runs, and runs until the other says that it may end."""
    inputs = outputs = [("x", "FP32", [-1, 8])]

    def setup(self, running, may_end):
        self.running, self.may_end = running, may_end

    def infer(self, inputs):
        if inputs["x"].any():
            with open(self.running, "w") as running:
                running.write("x")
            with open(self.may_end) as may_end:
                may_end.read()
        return inputs
'''


SIGNALS = '''
import signal
import threading

import numpy as np

class Signals:
    """Handles SIGUSR1, and says when it has."""
    inputs = [("x", "FP32", [-1, 8])]
    outputs = [("handled", "BOOL", [-1, 1])]

    def setup(self):
        self.handled = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self.handled.set())

    def infer(self, inputs):
        handled = self.handled.wait(10) if inputs["x"].any() else False
        return {"handled": np.full((len(inputs["x"]), 1), handled)}
'''


@pytest.fixture
def affine(tmp_path: Path) -> FunctionSpec:
    return FunctionSpec("affine", model=str(models.affine(tmp_path)))


class Waiter:
    """A function whose batch ends when the test says so."""

    def __init__(self, folder: Path) -> None:
        (folder / "waiter_code.py").write_text(WAITER)
        self._running, self._may_end = folder / "running", folder / "may_end"
        for fifo in (self._running, self._may_end):
            os.mkfifo(fifo)
        self.spec = FunctionSpec(
            "waiter",
            engine="python",
            python="waiter_code:Waiter",
            python_path=str(folder),
            args={"running": str(self._running), "may_end": str(self._may_end)},
        )

    def await_running(self) -> None:
        assert self._running.read_text() == "x"

    def let_end(self) -> None:
        self._may_end.write_text("")


# ---- orders ----------------------------------------------------------------------------------


def test_from_the_first_word_to_the_last(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        hello, fds = worker.connect()
        assert (hello.protocol, hello.pid) == (messages.PROTOCOL_VERSION, worker.pid)
        assert hello.started == start_ticks(worker.pid)
        assert hello.worker == messages.WorkerState()
        assert fds == []
        ready = worker.serve(affine)
        assert (ready.share_effective_percent, ready.limiter) == (100.0, "none")
        assert ready.memory.process_bytes > 1 << 20
        assert ready.memory.model_bytes + ready.memory.warm_bytes > 0
        assert ready.memory.host_bytes <= resident_bytes(worker.pid)
        assert ready.memory.device_bytes == 0
        expected = models.reference(Path(affine.model), X)["y"]
        np.testing.assert_array_equal(worker.infer(X)["y"], expected)
        worker.request(messages.RemoveFrontend(0), messages.Ok)
        worker.request(messages.Drain(timeout_ms=1000), messages.Ok)
        assert worker.channel is not None
        worker.channel.send(messages.Exit())
        assert worker.wait_exit() == 0
        assert "Traceback" not in worker.log.read_text()
        assert "leaked" not in worker.log.read_text()  # as nanobind reports at exit


def test_the_threads_have_names(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        worker.serve(affine)
        tasks = Path(f"/proc/{worker.pid}/task").glob("*/comm")
        names = [task.read_text().strip() for task in tasks]
        assert {"gslice-pump", "gslice-lane-0", "gslice-lane-1"} <= set(names)


def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path: Path) -> None:
    with WorkerProcess() as worker:
        worker.connect()
        spec = FunctionSpec("f", model=str(tmp_path / "absent.onnx"))
        with pytest.raises(FailedPrecondition, match=r"function f: the model .* does not exist"):
            worker.request(messages.Load(spec, 100.0, "none", CPUS), messages.Loaded)
        with pytest.raises(FailedPrecondition, match="this worker is failed"):
            worker.request(messages.Load(spec, 100.0, "none", CPUS), messages.Loaded)


def test_a_failing_warm_up_fails_the_attach(tmp_path: Path) -> None:
    spec = FunctionSpec("f", model=str(models.affine(tmp_path)), warmup="absent.npz")
    with WorkerProcess() as worker, pytest.raises(FailedPrecondition, match="cannot be read"):
        worker.serve(spec)


def test_orders_out_of_place_are_refused(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        worker.connect()
        with pytest.raises(FailedPrecondition, match="no function is loaded"):
            worker.request(messages.Attach(0), messages.Ready)
        with pytest.raises(FailedPrecondition, match="Serve is no order for a worker"):
            worker.request(messages.Serve("x"), messages.Serving)
        worker.request(messages.Load(affine, 100.0, "none", CPUS), messages.Loaded)
        with pytest.raises(InvalidArgument, match="Attach must carry 1 descriptor"):
            worker.request(messages.Attach(0), messages.Ready)


# ---- daemons come and go -------------------------------------------------------------------------


def test_nonsense_drops_the_connection_and_not_the_worker(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        worker.serve(affine)
        assert worker.channel is not None
        with socket.socket(fileno=os.dup(worker.channel.fileno())) as sock:
            sock.send(b"nonsense")
        with pytest.raises(ChannelClosed):
            worker.channel.recv()
        hello, fds = worker.connect()
        assert hello.worker is not None
        assert hello.worker.state == "ready"
        for fd in fds:
            os.close(fd)


def test_a_later_daemon_adopts_what_serves(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        ready = worker.serve(affine)
        worker.disconnect()
        assert worker.infer(X)["y"].shape == (1, 3)
        hello, fds = worker.connect()
        assert hello.worker is not None
        assert hello.worker == messages.WorkerState(
            spec=affine,
            signature=worker.signature,
            instance=0,
            state="ready",
            share_percent=100,
            share_effective_percent=ready.share_effective_percent,
            limiter="none",
            limiter_ordered="none",
            cpus=CPUS,
            memory=ready.memory,
            threads=len(CPUS),
        )
        (fd,) = fds
        adopted = _native.Segment.open(fd)
        os.close(fd)
        assert worker.segment is not None
        assert adopted.generation == worker.segment.generation
        worker.request(messages.Drain(timeout_ms=1000), messages.Ok)


def test_a_probe_of_the_socket_disturbs_nobody(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        worker.serve(affine)
        leader = worker.channel
        worker.channel = None
        worker.connect()
        worker.disconnect()
        worker.channel = leader
        worker.request(messages.SetShare(100.0), messages.ShareSet)


def test_the_grace_ends_in_order(affine: FunctionSpec) -> None:
    with WorkerProcess("--orphan-grace-us", "50000") as worker:
        worker.serve(affine, limiter="auto")
        worker.disconnect()
        assert worker.wait_exit() == 0
        assert "no daemon for 0.05 s" in worker.log.read_text()
        _nothing_left(worker)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_worker_that_serves_nothing_goes_with_its_daemon(
    affine: FunctionSpec, loaded: bool
) -> None:
    with WorkerProcess() as worker:
        worker.connect()
        if loaded:
            worker.request(messages.Load(affine, 100.0, "none", CPUS), messages.Loaded)
        worker.disconnect()
        assert worker.wait_exit() == 0


# ---- ends ------------------------------------------------------------------------------------


def test_sigterm_finishes_what_runs(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path)
    with WorkerProcess() as worker:
        worker.serve(waiter.spec, limiter="auto")
        ticket = worker.submit(X)
        waiter.await_running()
        os.kill(worker.pid, signal.SIGINT)  # the daemon's to handle
        os.kill(worker.pid, signal.SIGTERM)
        waiter.let_end()
        assert worker.wait_exit() == 0
        np.testing.assert_array_equal(worker.answer(ticket)["x"], X["x"])
        _nothing_left(worker)


def test_drain_says_when_it_takes_too_long(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path)
    with WorkerProcess() as worker:
        worker.serve(waiter.spec)
        ticket = worker.submit(X)
        waiter.await_running()
        with pytest.raises(DeadlineExceeded, match="still in flight after 1 ms"):
            worker.request(messages.Drain(timeout_ms=1), messages.Ok)
        waiter.let_end()
        worker.answer(ticket)
        worker.request(messages.Drain(timeout_ms=10_000), messages.Ok)


def _nothing_left(worker: WorkerProcess) -> None:
    assert not list(Path("/sys/fs/cgroup").glob(f"**/gslice.*-{worker.pid}"))


def test_other_signals_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "signals_code.py").write_text(SIGNALS)
    code = {"engine": "python", "python": "signals_code:Signals", "python_path": str(tmp_path)}
    with WorkerProcess() as worker:
        worker.serve(FunctionSpec("signals", **code))
        os.kill(worker.pid, signal.SIGUSR1)
        assert worker.infer(X)["handled"].tolist() == [[True]]
        worker.request(messages.SetShare(100.0), messages.ShareSet)
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait_exit() == 0


# ---- shares ----------------------------------------------------------------------------------


@needs_cgroups
@pytest.mark.alone
def test_a_quarter_of_the_share_does_a_quarter_of_the_work(tmp_path: Path) -> None:
    path = models.slow(tmp_path, size=256, steps=20)
    spec = FunctionSpec("slow", model=str(path), threads=1, lanes=1)
    with WorkerProcess() as worker:
        worker.serve(spec, 100.0, "cgroup")
        of_core = 100.0 / len(CPUS)  # one thread can use one core; a share is of all of them
        parts = []
        for _ in range(5):  # neighbours on the machine take their part of it now and then
            whole, cpu_s = _work(worker, of_core)
            quarter, _ = _work(worker, of_core / 4)
            parts.append(quarter / (whole / cpu_s))
            if 0.2 <= parts[-1] <= 0.3:
                return
        pytest.fail(f"at a quarter of the share it did {parts} of a core's work")


def _work(worker: WorkerProcess, share_percent: float) -> tuple[float, float]:
    """Inferences a second under a share, and the part of a core that its thread really got."""
    reply = worker.request(messages.SetShare(share_percent), messages.ShareSet)
    assert reply.share_effective_percent == pytest.approx(share_percent, rel=0.02)
    (lane,) = (
        task.parent
        for task in Path(f"/proc/{worker.pid}/task").glob("*/comm")
        if task.read_text().startswith("gslice-lane")
    )
    x = {"x": np.ones((1, 256), np.float32)}
    count = 0
    cpu_ns, start = _cpu_ns(lane), time.monotonic()
    while (elapsed_s := time.monotonic() - start) < 0.5:
        worker.infer(x)
        count += 1
    return count / elapsed_s, (_cpu_ns(lane) - cpu_ns) / 1e9 / elapsed_s


def _cpu_ns(task: Path) -> int:
    return int((task / "schedstat").read_text().split()[0])


def test_the_threads_limiter_gives_whole_cores(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        ready = worker.serve(replace(affine, threads=len(CPUS)), 1.0, "threads")
        assert ready.share_effective_percent == pytest.approx(100.0 / len(CPUS))
        reply = worker.request(messages.SetShare(100.0), messages.ShareSet)
        assert reply.share_effective_percent == 100.0


def test_a_share_is_effective_as_far_as_the_engines_threads_reach(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        ready = worker.serve(replace(affine, threads=1), 100.0, "none")
        assert ready.share_effective_percent == pytest.approx(100.0 / len(CPUS))


@needs_cgroups
def test_what_a_killed_worker_left_goes_with_the_next(affine: FunctionSpec) -> None:
    with WorkerProcess() as killed:
        killed.serve(affine, limiter="cgroup")
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait_exit() == -signal.SIGKILL
        assert list(Path("/sys/fs/cgroup").glob(f"**/gslice.affine-{killed.pid}"))
        with WorkerProcess() as worker:
            worker.serve(affine, limiter="cgroup")
            _nothing_left(killed)


@needs_cgroups
def test_compute_threads_are_limited_and_no_others(affine: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        worker.serve(affine, 1.0, "cgroup")
        (group,) = Path("/sys/fs/cgroup").glob(f"**/gslice.*-{worker.pid}")
        members = "tasks" if (group / "tasks").exists() else "cgroup.threads"
        limited = {int(tid) for tid in (group / members).read_text().split()}
        names = {
            int(task.name): (task / "comm").read_text().strip()
            for task in Path(f"/proc/{worker.pid}/task").iterdir()
        }
        assert {"gslice-lane-0", "gslice-lane-1"} <= {names[tid] for tid in limited}
        assert "gslice-pump" not in {names[tid] for tid in limited}
        assert worker.pid not in limited  # the control thread
