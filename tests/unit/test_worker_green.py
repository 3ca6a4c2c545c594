"""A worker whose function is limited by a green context, over the stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import FailedPrecondition, GsliceError, ResourceExhausted
from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests.fakes.gpu import FakeGpu
from tests.worker_process import CPUS, WorkerProcess, scale_class

OUT_OF_MEMORY = 2

X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def worker(fake_gpu: FakeGpu) -> Iterator[WorkerProcess]:
    with WorkerProcess(environment=fake_gpu.environment) as worker:
        worker.connect()
        yield worker


@pytest.fixture
def spec(tmp_path: Path) -> FunctionSpec:
    (tmp_path / "green_user.py").write_text(scale_class(2))
    return FunctionSpec(
        "scale", engine="python", python="green_user:Scale", python_path=str(tmp_path), lanes=2
    )


def order(spec: FunctionSpec, fake: FakeGpu, share_percent: float) -> messages.Load:
    grant = messages.GpuGrant(fake.gpus[0].uuid, fake.gpus[0].sms)
    return messages.Load(spec, share_percent, "green", CPUS, grant)


def serve(
    worker: WorkerProcess, spec: FunctionSpec, fake: FakeGpu, share_percent: float
) -> messages.Ready:
    loaded = worker.request(order(spec, fake, share_percent), messages.Loaded)
    return worker.attach(spec, loaded.signature)


def check_serves(worker: WorkerProcess) -> None:
    for _ in range(3):
        np.testing.assert_array_equal(worker.infer(X)["x"], X["x"] * 2)


def kept(fake: FakeGpu, worker: WorkerProcess) -> list[int]:
    """What a lane is made of; pinned memory comes with its first batch."""
    counters = fake.counters(worker.pid)
    kinds = ("contexts", "green_contexts", "streams", "events", "device_memory")
    return [counters[f"live.{kind}"] for kind in kinds]


def test_a_share_is_so_many_groups_and_changes_in_place(
    worker: WorkerProcess, spec: FunctionSpec, fake_gpu: FakeGpu
) -> None:
    ready = serve(worker, spec, fake_gpu, 40.0)
    assert (ready.limiter, ready.share_effective_percent) == ("green", 100 * 48 / 132)
    check_serves(worker)
    streams = fake_gpu.counters(worker.pid)["live.streams"]
    for share_percent, sms in ((80.0, 96), (1.0, 8), (100.0, 120), (33.0, 32)):
        change = worker.request(messages.SetShare(share_percent), messages.ShareSet)
        assert change.share_effective_percent == 100 * sms / 132
        check_serves(worker)
        counters = fake_gpu.counters(worker.pid)
        assert (counters["live.streams"], counters["live.green_contexts"]) == (streams, 1)
    hello, _ = worker.connect()
    assert hello.worker is not None
    assert (hello.worker.limiter, hello.worker.share_percent) == ("green", 33.0)
    made = fake_gpu.counters(worker.pid)["cuGreenCtxCreate"]
    worker.request(messages.SetShare(32.0), messages.ShareSet)  # as many groups
    assert fake_gpu.counters(worker.pid)["cuGreenCtxCreate"] == made

    assert worker.channel is not None
    worker.channel.send(messages.Exit())
    assert worker.wait_exit() == 0
    left = fake_gpu.counters(worker.pid)
    assert {k: n for k, n in left.items() if k.startswith(("live.", "leaked.")) and n} == {}
    log = worker.log.read_text()
    assert "48 of 132 SMs, 36.3636 % by green" in log
    assert "72.7273 % by green" in log
    assert log.count("prepared other lanes in ") == 4
    assert "Traceback" not in log


def test_a_resize_that_fails_leaves_what_serves(
    worker: WorkerProcess, spec: FunctionSpec, fake_gpu: FakeGpu
) -> None:
    ready = serve(worker, spec, fake_gpu, 40.0)
    before = kept(fake_gpu, worker)
    for entry in ("cuGreenCtxCreate", "cuGreenCtxStreamCreate", "cuEventCreate"):
        fake_gpu.fail(entry, OUT_OF_MEMORY)
        with pytest.raises(GsliceError, match="OUT_OF_MEMORY"):
            worker.request(messages.SetShare(80.0), messages.ShareSet)
        assert kept(fake_gpu, worker) == before
        hello, _ = worker.connect()
        assert hello.worker is not None
        assert hello.worker.share_effective_percent == ready.share_effective_percent
        check_serves(worker)
    change = worker.request(messages.SetShare(80.0), messages.ShareSet)
    assert change.share_effective_percent == 100 * 96 / 132


def test_a_share_of_what_does_not_serve_stays(
    worker: WorkerProcess, spec: FunctionSpec, fake_gpu: FakeGpu
) -> None:
    worker.request(order(spec, fake_gpu, 40.0), messages.Loaded)
    with pytest.raises(FailedPrecondition, match="only of a function that serves"):
        worker.request(messages.SetShare(80.0), messages.ShareSet)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}, "does not go with CUDA_MPS_ACTIVE_THREAD_PE"),
        ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100"}, ""),
    ],
)
@pytest.mark.parametrize("how", ["start", "assign"])
def test_a_share_of_mps_is_refused_wherever_it_comes_from(
    spec: FunctionSpec, fake_gpu: FakeGpu, environment: dict[str, str], said: str, how: str
) -> None:
    own = environment if how == "start" else {}
    with WorkerProcess(environment={**fake_gpu.environment, **own}) as worker:
        worker.connect()
        if how == "assign":  # as a spare gets it
            with worker.log.open("a") as log:
                worker.request(messages.Assign(environment), messages.Ok, [log.fileno()])
        if not said:
            worker.request(order(spec, fake_gpu, 40.0), messages.Loaded)
            return
        with pytest.raises(FailedPrecondition, match=said):
            worker.request(order(spec, fake_gpu, 40.0), messages.Loaded)
        assert fake_gpu.counters(worker.pid).get("cuInit", 0) == 0


def test_what_the_process_sees_must_be_all_of_the_gpu(
    worker: WorkerProcess, spec: FunctionSpec, fake_gpu: FakeGpu
) -> None:
    """As where an MPS control daemon has a default percentage, which no environment shows."""
    grant = messages.GpuGrant(fake_gpu.gpus[0].uuid, 2 * fake_gpu.gpus[0].sms)
    load = messages.Load(spec, 40.0, "green", CPUS, grant)
    with pytest.raises(FailedPrecondition, match="this process sees 132 of its 264 SMs"):
        worker.request(load, messages.Loaded)


def test_a_driver_without_green_contexts_is_refused(spec: FunctionSpec) -> None:
    with (
        FakeGpu(driver_version=12040) as fake,
        WorkerProcess(environment=fake.environment) as worker,
    ):
        worker.connect()
        with pytest.raises(FailedPrecondition, match="no green contexts, which came with CUDA 12"):
            worker.request(order(spec, fake, 40.0), messages.Loaded)


def test_a_load_that_fails_gives_the_groups_back(
    worker: WorkerProcess, spec: FunctionSpec, fake_gpu: FakeGpu
) -> None:
    fake_gpu.fail("cuGreenCtxStreamCreate", OUT_OF_MEMORY)
    with pytest.raises(ResourceExhausted, match="cuGreenCtxStreamCreate: CUDA_ERROR_OUT_OF_MEM"):
        worker.request(order(spec, fake_gpu, 40.0), messages.Loaded)
    counters = fake_gpu.counters(worker.pid)
    assert {name: n for name, n in counters.items() if name.startswith("live.") and n} == {}
