"""A function is measured while it serves: nobody outside notices, and nothing of it is left."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests import models
from tests.fakes.gpu import FakeGpu
from tests.node import Node
from tests.process.gpu import MPS, events, on_gpu
from tests.process.traffic import Traffic

LONG = list(range(10, 101, 10))  # shares that nobody waits to see measured


def profile(node: Node, name: str, *grid: Any, **options: Any) -> list[Any]:
    with node.control() as control:
        return list(control.profile(name, *grid, **options))


def where(points: Any) -> list[tuple[int, float]]:
    return [(point.bucket, point.share_ordered_percent) for point in points]


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Any]:
    """An onnxruntime function that answers a number with itself."""
    return {"model": str(models.identity(tmp_path, "INT64", ("N", 1)))}


# ---- the CPU device --------------------------------------------------------------------------


def test_a_function_is_measured_while_it_serves(start_node, model) -> None:
    node = start_node({"f": {**model, "share": "60%"}})
    before = node.worker_pids("f")
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        first, *measured, last = profile(node, "f", [100, 50], [4, 1])
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert (first.left, first.excess_percent) == (4, 60)
    assert where(step.point for step in measured) == [(1, 100), (4, 100), (1, 50), (4, 50)]
    assert [step.left for step in measured] == [3, 2, 1, 0]
    assert all(step.left_s > 0 for step in measured[:-1])
    result = last.result
    assert where(result.points) == [(1, 50), (1, 100), (4, 50), (4, 100)]
    for point in result.points:
        assert 0 < point.median_us <= point.p99_us
        assert point.batches >= 10
        assert point.fitted_us == pytest.approx(point.median_us, rel=0.5)
        assert point.joules == 0
    assert [curve.bucket for curve in result.curves] == [1, 4]
    assert not result.quick
    assert (result.device, result.limiter) == ("cpu", node.function("f").limiter)
    assert node.worker_pids("f") == before
    assert node.function("f").share_effective_percent == pytest.approx(60, abs=0.5) or (
        result.limiter == "threads"
    )
    told = events(node)
    assert "is measured at up to 100% beside what serves, 60% more than is free" in told
    node.stop()
    node.start()
    (kept,) = profile(node, "f", show=True)
    assert list(kept.result.points) == list(result.points)


def test_what_is_chosen_adds_to_what_is_kept(start_node, model) -> None:
    node = start_node({"f": model})
    profile(node, "f", [100], [1, 2])
    *_, last = profile(node, "f", [], [2, 4])
    assert {bucket for bucket, _ in where(last.result.points)} == {1, 2, 4}


def test_threads_are_measured_in_whole_cores(start_node, model) -> None:
    limiter = {"cpu": {"limiter": "threads", "cpus": "0-1"}}
    node = start_node({"f": {**model, "share": "50%"}}, devices=limiter)
    *_, last = profile(node, "f", [], [1])
    effective = [point.share_percent for point in last.result.points]
    assert effective == [50, 100]
    assert last.result.limiter == "threads"


def test_a_load_times_batches_of_a_function_with_an_slo(start_node, model, zoo) -> None:
    node = start_node({"f": {**model, "slo": {"p99": "1s"}}, "g": model, "z": zoo("Echo")})
    (shown,) = profile(node, "f", show=True)
    assert shown.result.quick
    assert {bucket for bucket, _ in where(shown.result.points)} == {1, 2, 4, 8, 16}
    for name in ("g", "z"):
        with pytest.raises(NotFound, match=f"function {name} has no profile that holds for it"):
            profile(node, name, show=True)


def test_whoever_leaves_gives_it_up(start_node, model) -> None:
    node = start_node({"f": model})
    with node.control() as control, closing(control.profile("f", LONG, [1, 2, 4])) as steps:
        next(steps)
        next(steps)
        with pytest.raises(FailedPrecondition, match="function f is being measured already"):
            profile(node, "f")
    with node.control() as control:
        for event in control.events(50, follow=True, subject="f"):
            if event.text == "is not measured any more: nobody waits for it":
                break
    with pytest.raises(NotFound, match="has no profile"):
        profile(node, "f", show=True)
    profile(node, "f", [100], [1])


def test_a_stop_of_the_daemon_ends_it(start_node, model) -> None:
    node = start_node({"f": model})
    with node.control() as control, closing(control.profile("f")) as steps:
        next(steps)
        next(steps)
        node.stop()
        with pytest.raises((Cancelled, Unavailable), match=r"stopping|went away"):
            list(steps)


def test_what_cannot_be_measured_is_told(start_node, model, identity) -> None:
    limits = {"cpu": {"limits": {"share": "80%"}}}
    node = start_node({"f": model, "plain": identity}, devices=limits)
    with pytest.raises(NotFound, match="there is no function g"):
        profile(node, "g")
    with pytest.raises(InvalidArgument, match="at 90%: the share limit of cpu is 80%"):
        profile(node, "f", [90], [])
    with pytest.raises(InvalidArgument, match="function f takes 1 to 16 rows in a batch, not 17"):
        profile(node, "f", [], [17])
    with pytest.raises(FailedPrecondition, match="identity computes nothing to be measured"):
        profile(node, "plain")


def test_without_memory_for_another_worker_nothing_is_begun(start_node, model) -> None:
    node = start_node({"f": model})
    taken = node.function("f").memory
    mib = (taken.process_bytes + taken.model_bytes + taken.workspace_bytes) * 3 // 2 >> 20
    node.stop()
    limits = {"cpu": {"limits": {"memory": f"{mib}MiB"}}}
    node = start_node({"f": model}, devices=limits)
    told = "measured beside what serves; cpu has"
    with pytest.raises(ResourceExhausted, match=told):
        profile(node, "f")


# ---- a GPU ---------------------------------------------------------------------------------------


def test_a_function_on_a_gpu_gets_a_worker_for_each_share(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS)
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        first, *measured, last = profile(node, "f", [25, 50], [1, 2])
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert first.excess_percent == 0
    assert where(step.point for step in measured) == [(1, 50), (2, 50), (1, 25), (2, 25)]
    effective = [point.share_percent for point in last.result.points]
    assert effective == pytest.approx([100 * sms / 132 for sms in (32, 66, 32, 66)])
    assert all(point.joules > 0 for point in last.result.points)
    assert last.result.limiter == "mps"
    assert "132 SMs, driver" in last.result.machine


def test_whoever_leaves_a_gpu_leaves_it_as_it_was(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS)
    before = gpu.processes()
    with node.control() as control:
        with closing(control.profile("f", LONG)) as steps:
            next(steps)
            next(steps)
        for event in control.events(50, follow=True, subject="f"):
            if event.text == "is not measured any more: nobody waits for it":
                break
    assert gpu.processes() == before
