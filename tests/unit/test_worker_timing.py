"""Timed batches: how many are run, what is told of them, and what cannot be timed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from gslice._native import Batch
from gslice.core.errors import FailedPrecondition, InvalidArgument, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.device.limiter import availability
from gslice.ipc import messages
from gslice.ipc.messages import Measure
from gslice.worker.timing import QUICK_US, Times, Timing
from tests import models
from tests.served import PlainEngine
from tests.worker_process import CPUS, WorkerProcess

TENSORS = (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),)
ANY_SIZE = Signature(*TENSORS, rows_max=16)
needs_cgroups = pytest.mark.skipif(not availability()[0].available, reason=availability()[0].reason)


class Counted:
    """Counts batches by their rows; each takes a given time."""

    def __init__(self, takes_s: Callable[[int], float] = lambda rows: 0.0) -> None:
        self.runs: list[int] = []
        self._takes_s = takes_s

    def __call__(self, batch: Batch) -> None:
        self.runs.append(batch.bucket)
        end_s = time.perf_counter() + self._takes_s(batch.bucket)
        while time.perf_counter() < end_s:
            pass
        batch.set_output(0, np.zeros(batch.bucket, np.float32))


def timing(call: Callable[[Batch], None], signature: Signature = ANY_SIZE) -> Timing:
    return Timing(PlainEngine(signature, call), FunctionSpec("f"), signature, None)


# ---- how many ------------------------------------------------------------------------------------


def test_as_many_as_ordered_after_one_to_warm_up_and_one_for_this_thread() -> None:
    counted = Counted()
    times = timing(counted).measure(Measure(4, batches_min=3))
    assert counted.runs == [4] * 5
    assert (times.bucket, len(times.each_us)) == (4, 3)


def test_a_size_is_warmed_up_once() -> None:
    counted = Counted()
    timed = timing(counted)
    timed.measure(Measure(4))
    timed.measure(Measure(4))
    assert len(counted.runs) == 3 + 2


def test_no_more_than_ordered_however_short_they_are() -> None:
    times = timing(Counted()).measure(Measure(1, 1, batches_max=7, duration_us=60_000_000))
    assert len(times.each_us) == 7


def test_none_is_begun_after_its_time() -> None:
    times = timing(Counted(lambda _: 0.01)).measure(Measure(1, 1, 1000, duration_us=30_000))
    assert 1 <= len(times.each_us) <= 3
    assert all(each_us >= 10_000 for each_us in times.each_us)


def test_what_was_captured_is_run_from_python() -> None:
    class Captured(PlainEngine):
        def capture(self, batch: object) -> None:
            raise AssertionError("there is no GPU")

        def callable(self, lane: int, bucket: int) -> Callable[[Batch], None]:
            return replay

    counted, replay = Counted(), Counted()
    engine = Captured(ANY_SIZE, counted)
    Timing(engine, FunctionSpec("f"), ANY_SIZE, None).measure(Measure(4, batches_min=3))
    assert (counted.runs, replay.runs) == ([4], [4] * 4)


# ---- what is told --------------------------------------------------------------------------------


def test_median_and_p99() -> None:
    times = Times(1, np.array([*range(1, 100), 5000], float))
    assert times.median_us() == 50.5
    assert times.p99_us == 99
    assert Times(1, np.array([3.0, 9.0])).p99_us == 9


def test_under_a_quota_short_batches_count_as_the_mean_of_a_stretch() -> None:
    """Four of 0.25 ms in each period of 5 ms, then 4 ms without the processor: 1.25 ms each."""
    period = [250.0, 250.0, 250.0, 4250.0]
    times = Times(1, np.array(period * 100))
    assert times.median_us() == 250
    assert times.median_us(period_us=5000) == pytest.approx(1250)


def test_under_a_quota_long_batches_count_as_they_are() -> None:
    each_us = np.array([30_000.0, 50_000.0, 40_000.0])
    assert Times(1, each_us).median_us(period_us=5000) == 40_000


# ---- what cannot be timed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "bucket", "told"),
    [
        (ANY_SIZE, 17, "function f takes 1 to 16 rows in a batch, not 17"),
        (ANY_SIZE, 0, "function f takes 1 to 16 rows in a batch, not 0"),
        (Signature(*TENSORS, 4, (1, 4)), 2, "function f prepares batches of 1, 4, none of 2"),
    ],
)
def test_a_size_that_it_does_not_take(signature: Signature, bucket: int, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        timing(Counted(), signature).measure(Measure(bucket))


def test_a_batch_that_fails_once_warm() -> None:
    def call(batch: Batch) -> None:
        counted(batch)
        if len(counted.runs) > 1:
            raise ValueError("no more\nand more")

    counted = Counted()
    with pytest.raises(LoadFailed, match="function f fails with a batch of 2: ValueError: no more"):
        timing(call).measure(Measure(2))


def test_what_does_not_run_with_zeros_needs_a_sample() -> None:
    def refuse(batch: Batch) -> None:
        raise ValueError("zeros")

    timed = timing(refuse)
    timed._engine.trusts_zeros = False
    with pytest.raises(LoadFailed, match=r"does not run with zeros.*name a sample with `warmup`"):
        timed.measure(Measure(1))


# ---- in passing ----------------------------------------------------------------------------------


def test_in_passing_a_few_of_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gslice.worker.timing.QUICK_US", 60_000_000)
    measured = timing(Counted()).measure_quickly((1, 4, 16))
    assert [(times.bucket, len(times.each_us)) for times in measured] == [
        (1, 20),
        (4, 20),
        (16, 20),
    ]


def test_in_passing_only_as_long_as_it_may_take() -> None:
    row_s = QUICK_US / 1e6 / 12
    counted = Counted(lambda rows: rows * row_s)
    measured = timing(counted).measure_quickly((1, 2, 4, 8, 16))
    assert [times.bucket for times in measured][:1] == [1]
    assert 16 not in counted.runs
    assert 8 not in counted.runs


@pytest.mark.parametrize("warm", [False, True])
def test_in_passing_a_size_that_is_not_warm_takes_a_run_more(
    monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    now_ns = 0

    def call(batch: Batch) -> None:
        nonlocal now_ns
        now_ns += batch.bucket * 100_000_000
        batch.set_output(0, np.zeros(batch.bucket, np.float32))

    inputs = timing(call)._inputs(2)
    now_ns = 0
    monkeypatch.setattr("gslice.worker.timing.QUICK_US", 1_200_000)
    clock = SimpleNamespace(perf_counter_ns=lambda: now_ns)
    monkeypatch.setattr("gslice.worker.timing.time", clock)
    timed = Timing(
        PlainEngine(ANY_SIZE, call), FunctionSpec("f"), ANY_SIZE, None, {2: inputs} if warm else {}
    )
    # The size of 1 takes 0.8 s: to warm up, for this thread, and six times in its half.
    assert [times.bucket for times in timed.measure_quickly((1, 2))] == [1, *warm * [2]]


def test_in_passing_a_size_that_it_does_not_take_is_left_out() -> None:
    assert [times.bucket for times in timing(Counted()).measure_quickly((1, 17))] == [1]


def test_in_passing_a_size_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def call(batch: Batch) -> None:
        if batch.bucket == 4:
            raise MemoryError("too large")
        counted(batch)

    counted = Counted()
    with caplog.at_level(logging.WARNING):
        measured = timing(call).measure_quickly((1, 4, 16))
    assert [times.bucket for times in measured] == [1, 16]
    assert "batches of 4 are not timed" in caplog.text


# ---- a worker ------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path) -> FunctionSpec:
    return FunctionSpec("slow", model=str(models.slow(tmp_path, 128, 50)))


def load(worker: WorkerProcess, spec: FunctionSpec, limiter: str) -> messages.Loaded:
    worker.connect()
    return worker.request(messages.Load(spec, 100.0, limiter, CPUS[:1]), messages.Loaded)


@needs_cgroups
def test_a_quota_holds_for_what_is_measured_and_changes_in_place(slow: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        load(worker, slow, "cgroup")
        order = Measure(1, 10, duration_us=200_000)
        whole = worker.request(order, messages.Measured)
        assert (whole.limiter, whole.share_effective_percent) == ("cgroup", 100)
        worker.request(messages.SetShare(20.0), messages.ShareSet)
        fifth = worker.request(order, messages.Measured)
        assert fifth.share_effective_percent == pytest.approx(20)
        worker.request(messages.SetShare(100.0), messages.ShareSet)
        again = worker.request(order, messages.Measured)
        assert again.share_effective_percent == 100
        # The work is the same; whoever else uses the core only makes it longer.
        assert fifth.timed_us / fifth.batches > 2 * min(whole.median_us, again.median_us)


def test_what_is_measured_never_serves(slow: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        signature = load(worker, slow, "threads").signature
        measured = worker.request(Measure(2), messages.Measured)
        assert (measured.bucket, measured.batches, measured.limiter) == (2, 1, "threads")
        with pytest.raises(FailedPrecondition, match="attached already, or measured"):
            worker.attach(slow, signature)


def test_what_serves_is_not_measured(slow: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        assert worker.serve(slow).timed == []
        with pytest.raises(FailedPrecondition, match="function slow serves, so it is not measured"):
            worker.request(Measure(1), messages.Measured)


def test_a_load_times_the_sizes_that_are_asked_for(slow: FunctionSpec) -> None:
    with WorkerProcess() as worker:
        signature = load(worker, slow, "threads").signature
        ready = worker.attach(slow, signature, timed=(1, 4))
        assert [measured.bucket for measured in ready.timed] == [1, 4]
        x = {"x": np.ones((1, 128), np.float32)}
        assert worker.infer(x)["y"].shape == (1, 128)
