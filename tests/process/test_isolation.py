"""Functions with a device to themselves, and MIG instances as devices: with real processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import FailedPrecondition
from tests.fakes.gpu import GIB, FakeGpu, make_gpus, make_instances
from tests.node import Node
from tests.process.gpu import MPS, events, load, meet, numbers, on_gpu
from tests.process.traffic import Traffic

ONE, OTHER = "cpu:0-0", "cpu:1-1"
TWO_CORES: dict[str, Any] = {ONE: {}, OTHER: {}}
ALONE = {"isolation": "exclusive"}


@pytest.fixture
def two_cores() -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs cores 0 and 1")


def owners(node: Node) -> dict[str, str]:
    return {device.name: device.held_by for device in node.status().devices}


def why_not(node: Node, name: str, body: dict[str, Any]) -> str:
    """Why a function cannot be loaded."""
    assert load(node, name, body)[-1] == "failed"
    return str(node.function(name).reason)


# ---- the CPU device ------------------------------------------------------------------------------


def test_a_function_has_a_cpu_device_to_itself(start_node, identity, zoo, two_cores) -> None:
    echo = zoo("Echo")
    node = start_node(
        {"free": identity, "fixed": {**identity, "device": ONE}, "alone": {**echo, **ALONE}},
        devices=TWO_CORES,
    )
    assert owners(node) == {ONE: "", OTHER: "alone"}
    assert {f.name: f.device for f in node.status().functions} == {
        "free": ONE,
        "fixed": ONE,
        "alone": OTHER,
    }
    found = node.function("alone")
    assert (found.isolation, found.share_granted_percent) == ("exclusive", 100)
    assert found.share_effective_percent == pytest.approx(100)
    refused = why_not(node, "late", {**identity, "device": OTHER})
    assert refused.startswith(f"exclusive functions have to themselves what it may run on: {OTHER}")
    assert "wants a device to itself" in why_not(node, "second", {**identity, **ALONE})
    with pytest.raises(FailedPrecondition, match="has its devices to itself"), node.control() as c:
        list(c.resize("alone", "40%"))
    with Traffic(node, "alone") as traffic:
        traffic.wait_answers(20)
        assert load(node, "alone", {**echo, "device": OTHER})[-1] == "done"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert owners(node) == {ONE: "", OTHER: ""}
    assert load(node, "late", {**identity, "device": OTHER})[-1] == "done"
    assert "wants a device to itself" in why_not(node, "second", {**identity, **ALONE})


def test_the_next_daemon_finds_it_alone(start_node, identity, two_cores) -> None:
    node = start_node({"alone": {**identity, **ALONE, "device": ONE}}, devices=TWO_CORES)
    before = node.worker_pids("alone")
    node.kill_daemon()
    node.start()
    assert node.worker_pids("alone") == before
    assert owners(node) == {ONE: "alone", OTHER: ""}
    assert load(node, "f", identity)[-1] == "done"
    assert node.function("f").device == OTHER


# ---- a GPU ---------------------------------------------------------------------------------------


def test_a_function_has_a_gpu_to_itself_without_mps(
    start_node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeGpu(2) as fake:
        meet(fake, monkeypatch)
        culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")}, **ALONE)
        node = start_node(
            {"alone": culprit, "shared": on_gpu(device="cuda:1")},
            devices={"cuda:0": {"limiter": "mps"}, "cuda:1": {"limiter": "mps"}},
        )
        (first,), (other,) = node.worker_pids("alone"), node.worker_pids("shared")
        assert fake.counters(first).get("mps.server", 0) == 0
        assert fake.counters(other)["mps.server"] > 0
        found = node.function("alone")
        assert (found.limiter, found.share_effective_percent) == ("none", 100)
        refused = why_not(node, "late", on_gpu())
        assert refused.startswith("exclusive functions have to themselves what it may run on: cuda")
        # The next daemon finds it as it is to be.
        node.kill_daemon()
        node.start()
        assert node.worker_pids("alone") == [first]
        assert owners(node) == {"cuda:0": "alone", "cuda:1": ""}
        # A fault of it is a death like any other: nobody asks MPS, and nobody else is ended.
        assert node.client().infer("alone", numbers(-1))["y"].tolist() == [[-1]]
        node.wait_function("alone", lambda f: f.state == "READY" and f.workers[0].pid != first)
        assert node.worker_pids("shared") == [other]
        assert "reached every function" not in events(node)
        node.stop()


def test_sharing_begins_and_ends_by_a_load(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu()}, devices=MPS)
    (shared,) = node.worker_pids("f")
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(10)
        assert "swap" in load(node, "f", on_gpu(**ALONE))
        traffic.wait_answers(10)
        (alone,) = node.worker_pids("f")
        assert node.function("f").limiter == "none"
        assert "swap" in load(node, "f", on_gpu())
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert node.function("f").limiter == "mps"
    attached = [gpu.counters(pid).get("mps.server", 0) > 0 for pid in (shared, alone)]
    assert attached == [True, False]


# ---- MIG instances -------------------------------------------------------------------------------


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch):
    """A GPU in two MIG instances, and a whole one."""
    first, second = make_gpus(2)
    split = type(first)(**{**vars(first), "mig": 1})
    with FakeGpu([split, second, *make_instances(split, 2)]) as fake:
        meet(fake, monkeypatch)
        yield fake


def test_functions_on_instances(start_node, instances: FakeGpu) -> None:
    *_, one, other = instances.gpus
    node = start_node(
        {
            "a": on_gpu(device="cuda:0/mig:0", share="50%"),
            "b": on_gpu(device=other.uuid),
        },
        devices={"cuda:0/mig:0": {"limiter": "mps"}, other.uuid: {"limiter": "none"}},
    )
    for name, uuid, sms in (("a", one.uuid, 8), ("b", other.uuid, 16)):
        assert node.client().infer(name, numbers(1, 2))["y"].tolist() == [[1], [2]]
        (pid,) = node.worker_pids(name)
        assert instances.counters(pid)[f"sms.{uuid}"] == sms
        assert node.function(name).share_effective_percent == pytest.approx(100 * sms / 16)
    status = node.status()
    first = status.devices[0]
    assert (first.name, first.gpu.uuid, first.gpu.sms) == ("cuda:0/mig:0", one.uuid, 16)
    assert (first.memory_bytes, first.problem) == (10 * GIB, "")
    assert [device.gpu.sms for device in status.devices] == [16, 16]
    node.stop()


def test_auto_finds_instances(start_node, instances: FakeGpu) -> None:
    node = start_node({"f": on_gpu(device="cuda:0/mig:1")})
    names = [device.name for device in node.status().devices]
    assert names == ["cpu", "cuda:0/mig:0", "cuda:0/mig:1", "cuda:1"]
    assert node.function("f").device == "cuda:0/mig:1"
    node.stop()


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ({"cuda:0": {}}, "cuda:0 is partitioned by MIG; each instance is a device of its own"),
        ({"cuda:0/mig:5": {}}, "there is no MIG instance cuda:0/mig:5"),
    ],
)
def test_what_is_no_instance(start_node, instances: FakeGpu, devices, words: str) -> None:
    (name,) = devices
    node = start_node({"f": on_gpu(device=name)}, devices=devices)
    found = node.function("f")
    assert found.state == "FAILED"
    assert words in found.reason
    node.stop()


def test_one_instance_under_two_names(start_node, instances: FakeGpu) -> None:
    uuid = instances.gpus[-1].uuid
    functions = {"a": on_gpu(device="cuda:0/mig:1"), "b": on_gpu(device=uuid)}
    node = start_node(functions, devices={"cuda:0/mig:1": {}, uuid: {}})
    states = {f.name: f.state for f in node.status().functions}
    assert sorted(states.values()) == ["FAILED", "READY"]
    (failed,) = (name for name, state in states.items() if state == "FAILED")
    assert f"are the same, {uuid}" in node.function(failed).reason
    node.stop()
