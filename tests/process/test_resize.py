"""Shares change while a function serves: nobody outside notices, and what fails changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests import models
from tests.fakes.gpu import FakeGpu
from tests.node import WAIT_S, Node, in_background, kill_and_wait
from tests.process.gpu import MPS, events, numbers, on_gpu
from tests.process.traffic import Traffic

WHOLE_CORES = {"cpu": {"limiter": "threads"}}
SHADOW = ["plan", "start", "load", "warm", "swap", "drain", "exit", "done"]


def resize(node: Node, name: str, share: str, **options: Any) -> list[Any]:
    with node.control() as control:
        return list(control.resize(name, share, **options))


def names(stages: list[Any]) -> list[str]:
    return [stage.name for stage in stages]


@pytest.fixture
def identity_model(tmp_path: Path) -> dict[str, Any]:
    """An onnxruntime function, whose threads are as many as its share is worth."""
    return {"model": str(models.identity(tmp_path, "INT64", ("N", 1)))}


@pytest.fixture
def slow(tmp_path: Path, gate) -> Any:
    """The body of a GPU function; while the marker is there, its setup waits at the gate."""
    marker = tmp_path / "slow"

    def body(share: str, **settings: Any) -> dict[str, Any]:
        args = {"gate": str(gate.path), "marker": str(marker)}
        return on_gpu("SlowSetup", args=args, share=share, **settings)

    body.marker = marker  # type: ignore[attr-defined]
    return body


# ---- the CPU device --------------------------------------------------------------------------


def test_a_shadow_takes_over_where_threads_are_fixed(start_node, identity_model) -> None:
    node = start_node({"f": {**identity_model, "share": "50%"}}, devices=WHOLE_CORES)
    if len(node.status().devices[0].cpus) < 2:
        pytest.skip("one core cannot be divided into whole ones")
    before = node.worker_pids("f")
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        up = resize(node, "f", "100%")
        traffic.wait_answers(20)
        down = resize(node, "f", "50%")
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert names(up) == names(down) == SHADOW
    done = up[-1].resized
    assert (done.path, done.share_granted_percent, done.share_effective_percent) == (
        ("shadow", 100, 100)
    )
    assert done.excess_percent == 100
    assert done.prepare_ms > 0
    assert done.extra_memory_bytes > 1 << 20
    (swap,) = done.swaps
    assert 0 < swap.flip_us < 1e6
    assert 0 <= swap.hole_us < 1e6
    assert not {*before} & {*node.worker_pids("f")}
    assert node.function("f").share_effective_percent == 50


def test_the_same_number_of_threads_needs_no_shadow(start_node, identity_model) -> None:
    body = {**identity_model, "share": "100%", "instances": 2}
    node = start_node({"f": body}, devices={"cpu": {"limiter": "threads", "cpus": "0-1"}})
    before = node.worker_pids("f")
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        stages = resize(node, "f", "40%")
        assert names(stages) == ["plan", "done"]
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert node.worker_pids("f") == before


def test_a_quota_changes_in_place(start_node, zoo) -> None:
    node = start_node({"f": zoo("Burns", share="25%")}, devices={"cpu": {"cpus": "0"}})
    if node.function("f").limiter != "cgroup":
        pytest.skip("no control group can be made here")
    before = node.worker_pids("f")
    stages = resize(node, "f", "60%")
    assert names(stages) == ["plan", "done"]
    done = stages[-1].resized
    assert (done.path, list(done.swaps)) == ("in place", [])
    assert done.share_effective_percent == pytest.approx(60, abs=0.5)
    assert node.worker_pids("f") == before


def granted(node: Node) -> dict[str, float]:
    return {f.name: f.share_granted_percent for f in node.status().functions}


def test_a_dry_run_changes_nothing_and_others_give_way_to_a_fixed_share(
    start_node, identity
) -> None:
    node = start_node({"a": {**identity, "share": "40%"}, "b": identity})
    (plan,) = resize(node, "a", "auto", dry_run=True)
    assert (plan.name, plan.detail) == ("plan", "in place: a 40% -> 50%, b 60% -> 50%")
    assert (plan.resized.path, plan.resized.share_granted_percent) == ("in place", 50)
    assert granted(node) == {"a": 40, "b": 60}
    stages = resize(node, "a", "70%")
    assert stages[0].detail == "in place: a 40% -> 70%, b 60% -> 30%"
    assert granted(node) == {"a": 70, "b": 30}


def test_a_new_share_stays_wanted(start_node, identity) -> None:
    node = start_node({"a": {**identity, "share": "40%"}})
    resize(node, "a", "70%")
    with node.control() as control:
        (change,) = control.diff().changes
    assert (change.path, change.file_value, change.running_value) == (
        ("functions.a.share", "40%", "70%")
    )
    node.stop()
    node.start()
    assert node.function("a").share_granted_percent == 70


REFUSED = [
    ("c", "40%", NotFound, "there is no function c"),
    ("a", "forty", InvalidArgument, "a share is auto, 40% or {min: 20%, max: 60%}"),
    ("a", "40%\nqueue: {max: 1}", InvalidArgument, "unknown key"),
    ("a", "80%", ResourceExhausted, "a 80% + b 30% = 110%"),
    ("broken", "10%", FailedPrecondition, "broken is FAILED; only one that serves"),
]


def test_what_cannot_be_is_refused_before_anything_is_done(start_node, identity) -> None:
    functions = {
        "a": {**identity, "share": "40%"},
        "b": {**identity, "share": "30%"},
        "broken": {"model": "/nowhere.onnx", "share": "1%"},
    }
    node = start_node(functions)
    node.wait_function("broken", lambda f: f.state == "FAILED")
    for name, share, error, told in REFUSED:
        with pytest.raises(error) as raised:
            resize(node, name, share)
        assert told in str(raised.value)
        assert node.function("a").share_granted_percent == 40


# ---- a GPU under MPS --------------------------------------------------------------------------


def test_every_instance_is_replaced_one_at_a_time(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="50%", instances=2)}, devices=MPS)
    before = node.worker_pids("f")
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        stages = resize(node, "f", "80%")
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert names(stages) == [SHADOW[0], *SHADOW[1:-1] * 2, SHADOW[-1]]
    done = stages[-1].resized
    assert (len(done.swaps), done.excess_percent) == (2, 40)
    assert node.function("f").share_effective_percent == pytest.approx(100 * 2 * 52 / 132)
    assert not {*before} & {*node.worker_pids("f")}


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_shadow_that_cannot_load_changes_nothing(
    start_gpu_node, gpu: FakeGpu, slow, gate
) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    before = node.worker_pids("f")
    gpu.fail("cuDevicePrimaryCtxRetain", 2, total=1, process="gslice.worker")
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        stages = resize(node, "f", "75%")
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert names(stages)[-1] == "failed"
    assert "cuDevicePrimaryCtxRetain" in stages[-1].detail
    found = node.function("f")
    assert (found.state, found.share_granted_percent) == ("READY", 25)
    assert found.share_effective_percent == pytest.approx(100 * 32 / 132)
    assert node.worker_pids("f") == before
    with node.control() as control:
        assert list(control.diff().changes) == []


def test_the_newest_resize_wins(start_gpu_node, gpu: FakeGpu, slow, gate) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    before = node.worker_pids("f")
    slow.marker.touch()
    older = in_background(lambda: resize(node, "f", "50%"))
    with gate.held():
        slow.marker.unlink()
        newer = resize(node, "f", "75%")
    assert names(newer) == SHADOW
    assert names(older.result(WAIT_S))[-1] == "failed"
    assert "a newer order took the place of this one" in older.result(WAIT_S)[-1].detail
    found = node.function("f")
    assert found.share_effective_percent == pytest.approx(100 * 98 / 132)
    assert (len(found.workers), found.workers[0].pid in before) == (1, False)


def test_a_load_takes_the_place_of_a_resize(start_gpu_node, gpu: FakeGpu, slow, gate) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    slow.marker.touch()
    older = in_background(lambda: resize(node, "f", "50%"))
    with gate.held(), node.control() as control:
        assert names(list(control.unload("f")))[-1] == "done"
    assert names(older.result(WAIT_S))[-1] == "failed"
    assert [f.name for f in node.status().functions] == []


def test_a_worker_that_dies_while_its_shadow_loads(
    start_gpu_node, gpu: FakeGpu, slow, gate
) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    (old,) = node.worker_pids("f")
    slow.marker.touch()
    resizing = in_background(lambda: resize(node, "f", "75%"))
    with gate.held():
        slow.marker.unlink()
        kill_and_wait(old)
        client = node.client()
        call = in_background(lambda: client.infer("f", numbers(5)))
        node.wait_function("f", lambda f: f.queued == 1)
    assert call.result(WAIT_S)["y"].tolist() == [[5]]
    assert names(resizing.result(WAIT_S))[-1] == "done"
    found = node.wait_function("f", lambda f: len(f.workers) == 1)
    assert found.workers[0].pid != old  # the shadow, or what was started in place of the dead
    assert found.share_effective_percent == pytest.approx(100 * 98 / 132)


def test_a_shadow_that_dies_is_dropped(start_gpu_node, gpu: FakeGpu, slow, gate) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    (old,) = node.worker_pids("f")
    slow.marker.touch()
    resizing = in_background(lambda: resize(node, "f", "75%"))
    with gate.held():
        (shadow,) = {*node.worker_pids("f")} - {old}
        kill_and_wait(shadow)
    stages = resizing.result(WAIT_S)
    assert "killed by SIGKILL while loading" in stages[-1].detail
    found = node.wait_function("f", lambda f: len(f.workers) == 1)
    assert (found.workers[0].pid, found.share_granted_percent) == (old, 25)
    assert node.client().infer("f", numbers(5))["y"].tolist() == [[5]]


def test_an_old_worker_that_hangs_in_its_last_batch_is_ended(
    start_gpu_node, gpu: FakeGpu, gate
) -> None:
    body = on_gpu("GateOnGpu", args={"gate": str(gate.path)})
    node = start_gpu_node(
        {"f": {**body, "share": "25%"}},
        devices=MPS,
        node={"drain_timeout": "300ms", "hang_timeout": "2s"},
    )
    client = node.client()
    call = in_background(lambda: client.infer("f", numbers(-7)))
    node.wait_function("f", lambda f: f.in_flight == 1)
    stages = resize(node, "f", "75%")
    assert stages[-2].detail == "it did not finish in time; others run what it had"
    gate.open()  # only the second run opens its other end
    assert call.result(WAIT_S)["y"].tolist() == [[-7]]
    assert node.function("f").share_effective_percent == pytest.approx(100 * 98 / 132)


def test_a_daemon_that_stops_in_the_middle_leaves_nothing(
    start_gpu_node, gpu: FakeGpu, slow, gate
) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    slow.marker.touch()
    resizing = in_background(lambda: resize(node, "f", "75%"))
    with gate.held():
        node.stop()
    assert resizing.result(WAIT_S)[-1].detail == "the daemon is stopping"


def test_a_daemon_that_dies_in_the_middle_leaves_what_served(
    start_gpu_node, gpu: FakeGpu, slow, gate
) -> None:
    node = start_gpu_node({"f": slow("25%")}, devices=MPS)
    before = node.worker_pids("f")
    slow.marker.touch()
    resizing = in_background(lambda: resize(node, "f", "75%"))
    with gate.held():
        node.kill_daemon()
    with pytest.raises(Unavailable, match="went away"):
        resizing.result(WAIT_S)
    node.start()
    assert node.worker_pids("f") == before
    assert node.client().infer("f", numbers(5))["y"].tolist() == [[5]]


def test_shrinks_come_before_grows(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"a": on_gpu(share="60%"), "b": on_gpu()}, devices=MPS)
    resize(node, "a", "20%")
    node.wait_function("b", lambda f: f.share_effective_percent > 75)
    resize(node, "a", "60%")
    found = node.wait_function("b", lambda f: len(f.workers) == 1)
    assert found.share_effective_percent == pytest.approx(100 * 52 / 132)
    assert "keeps its share" not in events(node)
