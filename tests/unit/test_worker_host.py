"""A host with several functions in one process, led by the test in the daemon's place."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import FailedPrecondition
from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests.fakes.gpu import FakeGpu
from tests.worker_process import CPUS, HostedWorker, WorkerProcess, scale_class

X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def host(fake_gpu: FakeGpu) -> Iterator[WorkerProcess]:
    with WorkerProcess("--host", "cuda:0", environment=fake_gpu.environment) as host:
        hello, _ = host.connect()
        assert hello.host == messages.HostState("cuda:0")
        yield host


def scale(folder: Path, name: str, factor: int) -> FunctionSpec:
    """A function by a class in a folder of its own, in a module that others are called like."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "hosted_user.py").write_text(scale_class(factor))
    place = str(folder / name)
    return FunctionSpec(name, engine="python", python="hosted_user:Scale", python_path=place)


def order(spec: FunctionSpec, fake: FakeGpu, share: float, limiter: str = "green") -> messages.Load:
    grant = messages.GpuGrant(fake.gpus[0].uuid, fake.gpus[0].sms)
    return messages.Load(spec, share, limiter, CPUS, grant)


def serve(worker: HostedWorker, spec: FunctionSpec, fake: FakeGpu, share: float) -> messages.Ready:
    hello, _ = worker.connect()
    assert hello.worker is not None
    assert hello.worker.hosted
    loaded = worker.request(order(spec, fake, share), messages.Loaded)
    return worker.attach(spec, loaded.signature)


def check(worker: HostedWorker, factor: int) -> None:
    np.testing.assert_array_equal(worker.infer(X)["x"], X["x"] * factor)


def test_functions_share_a_process_and_not_their_sms(
    host: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    a, b = scale(tmp_path, "a", 2), scale(tmp_path, "b", 3)
    with HostedWorker(host, "w-1") as one, HostedWorker(host, "w-2") as other:
        first, second = serve(one, a, fake_gpu, 60.0), serve(other, b, fake_gpu, 40.0)
        shares = first.share_effective_percent, second.share_effective_percent
        assert shares == (100 * 72 / 132, 100 * 48 / 132)
        counters = fake_gpu.counters(host.pid)
        splits = counters["cuDevSmResourceSplitByCount"]  # its size is asked for, then it is done
        assert (splits, counters["live.green_contexts"]) == (2, 2)
        assert first.memory.process_bytes > second.memory.process_bytes
        check(one, 2)
        check(other, 3)
        for worker, share, sms in ((one, 20.0, 24), (other, 80.0, 96)):
            change = worker.request(messages.SetShare(share), messages.ShareSet)
            assert change.share_effective_percent == 100 * sms / 132
            assert change.prepared_us > 0
            check(one, 2)
            check(other, 3)
        with HostedWorker(host, "w-3") as edited:  # the code as it is by now, beside the old one
            serve(edited, scale(tmp_path, "a", 5), fake_gpu, 20.0)
            check(edited, 5)
            check(one, 2)
            hello, _ = host.connect()
            assert hello.host == messages.HostState("cuda:0", ["w-1", "w-2", "w-3"])
            edited.leave()
        one.leave()
        check(other, 3)
        assert "moved in" in one.log.read_text()
        for worker, factor in ((one, 2), (other, 3)):  # in their lanes, too
            lines = set(re.findall("scales by .*", worker.log.read_text()))
            assert lines == {f"scales by {factor}"}
        other.leave()
    counters = fake_gpu.counters(host.pid)
    left = {k: n for k, n in counters.items() if k.startswith(("live.", "leaked.")) and n}
    assert left == {}
    assert "moved in" not in host.log.read_text()
    assert "scales by" not in host.log.read_text()
    assert host.channel is not None
    host.channel.send(messages.Exit())
    assert host.wait_exit() == 0


def test_what_is_the_process_s_is_refused(
    host: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    spec = scale(tmp_path, "a", 2)
    with HostedWorker(host, "w-1") as worker:
        worker.connect()
        with worker.log.open("a") as log, pytest.raises(FailedPrecondition, match="assigned"):
            worker.request(messages.Assign({}), messages.Ok, [log.fileno()])
        with pytest.raises(FailedPrecondition, match="limiter mps needs a process of its own"):
            worker.request(order(spec, fake_gpu, 40.0, "mps"), messages.Loaded)
        (tmp_path / "a" / "hosted_user.py").write_text("raise ValueError('broken')")
        with pytest.raises(FailedPrecondition, match="broken"):
            worker.request(order(spec, fake_gpu, 40.0), messages.Loaded)
        worker.leave()
    with HostedWorker(host, "w-2") as again:
        serve(again, scale(tmp_path, "a", 4), fake_gpu, 40.0)
        check(again, 4)


def test_sigterm_ends_all_in_order(host: WorkerProcess, fake_gpu: FakeGpu, tmp_path: Path) -> None:
    with HostedWorker(host, "w-1") as worker:
        serve(worker, scale(tmp_path, "a", 2), fake_gpu, 40.0)
        os.kill(host.pid, signal.SIGTERM)
        assert worker.channel is not None
        assert isinstance(worker.channel.recv().message, messages.Left)
        assert host.wait_exit() == 0
    left = {k: n for k, n in fake_gpu.counters(host.pid).items() if k.startswith("live.") and n}
    assert left == {}


def test_without_a_daemon_workers_serve_on_and_the_host_ends_with_the_last(
    fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    grace = ("--orphan-grace-us", "200000")
    with WorkerProcess("--host", "cuda:0", *grace, environment=fake_gpu.environment) as host:
        host.connect()
        with HostedWorker(host, "w-1") as worker:
            serve(worker, scale(tmp_path, "a", 2), fake_gpu, 40.0)
            host.disconnect()
            check(worker, 2)
            worker.disconnect()
            assert host.wait_exit() == 0
            assert "no daemon for 0.2 s" in worker.log.read_text()
