"""A function on several devices: all serve it, and those that come and go lose nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from gslice.core.errors import ResourceExhausted
from tests.contract.direct import wait_until
from tests.fakes.gpu import FakeGpu
from tests.node import Node, kill_and_wait
from tests.process.gpu import load, meet, numbers, on_gpu
from tests.process.traffic import Traffic

ONE, OTHER = "cpu:0-0", "cpu:1-1"
TWO_CORES: dict[str, Any] = {ONE: {}, OTHER: {}}
THREE_GPUS: dict[str, Any] = {f"cuda:{index}": {"limiter": "mps"} for index in range(3)}


@pytest.fixture(autouse=True)
def _two_cores() -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs cores 0 and 1")


def places(node: Node, name: str = "f") -> dict[str, list[int]]:
    """The workers of a function by device."""
    found: dict[str, list[int]] = {}
    for worker in node.function(name).workers:
        found.setdefault(worker.device, []).append(worker.pid)
    return found


def is_on(*devices: str) -> Any:
    """Whether a function serves on these devices, and every worker that it should have is ready."""

    def check(function: Any) -> bool:
        ready = {worker.device for worker in function.workers if worker.state == "READY"}
        all_ready = all(worker.state == "READY" for worker in function.workers)
        placed = set(function.devices) == ready == set(devices)
        return function.state == "READY" and placed and all_ready

    return check


def moves(node: Node) -> list[str]:
    with node.control() as control:
        return [e.text for e in control.events(limit=100, subject="f", kinds=["move"])]


def test_both_devices_serve_and_a_death_on_one_loses_nothing(start_node, zoo) -> None:
    node = start_node({"f": zoo("Signed", replicas=2)}, devices=TWO_CORES)
    before = places(node)
    assert sorted(before) == [ONE, OTHER]
    for device, (pid,) in before.items():
        assert os.sched_getaffinity(pid) == {int(device[-1])}
    found = node.function("f")
    assert (found.share_granted_percent, found.share_effective_percent) == (100, 100)
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(100)
        # Who pulls first takes all there is, so both serve sooner or later.
        wait_until(lambda: set(traffic.tags) == {pid for (pid,) in before.values()}, "both serve")
        kill_and_wait(before[OTHER][0])
        traffic.wait_answers(20)
        node.wait_function("f", is_on(ONE, OTHER))
        after = places(node)
        wait_until(lambda: traffic.tags[after[OTHER][0]] > 0, "the new one serves")
    traffic.assert_each_answered_once()
    assert after[ONE] == before[ONE]
    with node.control() as control:
        assert list(control.diff().changes) == [], "where it runs is nobody's wish"


def test_a_drained_device_is_left_and_taken_again(start_node, zoo) -> None:
    node = start_node({"f": zoo("Signed", replicas=2)}, devices=TWO_CORES)
    before = places(node)
    with Traffic(node, "f") as traffic, node.control() as control:
        traffic.wait_answers(20)
        stages = [(s.name, s.detail) for s in control.drain(ONE)]
        assert stages == [("moved", f"f: to {OTHER}"), ("done", "")]
        traffic.wait_answers(20)
        assert places(node) == {OTHER: before[OTHER]}
        # The last one has nowhere to go.
        (stay, _) = control.drain(OTHER)
        assert (stay.name, stay.detail) == ("stay", "f: no other device can take it")
        list(control.undrain(OTHER))
        list(control.undrain(ONE))
        node.wait_function("f", is_on(ONE, OTHER))
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert places(node)[OTHER] == before[OTHER]
    told = moves(node)
    assert told[0] == f"moves {ONE}, {OTHER} -> {OTHER}: {ONE} is drained"
    assert f"moves {OTHER} -> {OTHER}, {ONE}: it has 1 of 2 replicas" in told


def test_the_next_daemon_finds_every_replica(start_node, zoo) -> None:
    node = start_node({"f": zoo("Signed", replicas=2, instances=2)}, devices=TWO_CORES)
    before = places(node)
    assert {device: len(pids) for device, pids in before.items()} == {ONE: 2, OTHER: 2}
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        traffic.wait_answers(20)
        node.start()
        assert {d: set(p) for d, p in places(node).items()} == {
            d: set(p) for d, p in before.items()
        }
        # All of one device die while nobody looks: it is not forgotten that it was there.
        node.kill_daemon()
        for pid in before[OTHER]:
            kill_and_wait(pid)
        traffic.wait_answers(20)
        node.start()
        node.wait_function("f", lambda f: len(f.workers) == 4 and is_on(ONE, OTHER)(f))
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert node.function("f").share_granted_percent == 100
    node.stop()
    node.start()
    assert sorted(places(node)) == [ONE, OTHER]


def test_a_share_is_the_same_on_each_device_and_changes_on_each(start_node, zoo) -> None:
    functions = {
        "fixed": {**zoo("Echo"), "device": ONE, "share": "60%"},
        "f": zoo("Signed", replicas=2),
        "other": {**zoo("Echo"), "device": OTHER},
    }
    node = start_node(functions, devices=TWO_CORES)
    shares = {f.name: f.share_granted_percent for f in node.status().functions}
    assert shares == {"fixed": 60, "f": 40, "other": 60}
    with Traffic(node, "f") as traffic, node.control() as control:
        traffic.wait_answers(20)
        list(control.resize("f", "30%"))
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    found = node.wait_function("f", lambda f: abs(f.share_effective_percent - 30) < 1)
    assert found.share_granted_percent == 30
    assert node.function("other").share_granted_percent == 70


def test_replicas_come_and_go_by_an_order_without_a_load(start_node, zoo) -> None:
    node = start_node({"f": zoo("Signed")}, devices=TWO_CORES)
    ((home, first),) = places(node).items()
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(20)
        stages = load(node, "f", zoo("Signed", replicas=2))
        assert "drain" not in stages
        node.wait_function("f", is_on(ONE, OTHER))
        assert places(node)[home] == first
        traffic.wait_answers(100)
        both = {pid for pids in places(node).values() for pid in pids}
        wait_until(lambda: set(traffic.tags) == both, "both serve")
        load(node, "f", zoo("Signed"))
        assert places(node) == {home: first}
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()


def test_a_replica_that_does_not_load_changes_nothing(start_node, zoo, tmp_path) -> None:
    marker = tmp_path / "broken"
    body = zoo("Breakable", args={"marker": str(marker)})
    node = start_node({"f": body}, devices=TWO_CORES)
    before = places(node)
    marker.touch()
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(10)
        assert load(node, "f", {**body, "replicas": 2})[-1] == "failed"
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert places(node) == before
    assert list(node.function("f").devices) == list(before)


def test_replicas_rest_and_wake_together(start_node, zoo) -> None:
    body = zoo("Signed", replicas=2, residency="cold", idle_after="300ms")
    node = start_node({"f": body}, devices=TWO_CORES)
    node.wait_function("f", lambda f: f.state == "COLD" and not f.workers)
    assert sorted(node.function("f").devices) == [ONE, OTHER]
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(50)
        node.wait_function("f", is_on(ONE, OTHER))
        traffic.wait_answers(50)
        wait_until(lambda: len(traffic.tags) == 2, "both serve")
    traffic.assert_each_answered_once()
    node.wait_function("f", lambda f: f.state == "COLD" and not f.workers)
    with node.control() as control:
        assert [s.name for s in control.drain(ONE)] == ["moved", "done"]
    with node.client() as client:
        client.infer("f", numbers(1))
    node.wait_function("f", is_on(OTHER))


def test_every_worker_of_every_replica_is_renewed(start_node, zoo) -> None:
    functions = {"f": zoo("Signed", replicas=2, share="40%")}
    node = start_node(functions, devices=TWO_CORES, node={"connection_age": "500ms"})
    before = places(node)
    with Traffic(node, "f", clients=3) as traffic, node.control() as control:
        traffic.wait_answers(20)
        stages = [stage.name for stage in control.upgrade(workers=True)]
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert stages.count("worker") == 2
    after = places(node)
    assert sorted(after) == sorted(before)
    assert all(after[device] != before[device] for device in before)
    assert node.function("f").share_granted_percent == 40


def test_a_version_is_kept_on_both_devices(start_node, zoo) -> None:
    def tagged(tag: int) -> dict[str, Any]:
        return zoo("Tagged", args={"tag": tag}, replicas=2, versions={"keep": 2})

    node = start_node({"f": tagged(1)}, devices=TWO_CORES)
    old = places(node)
    pids = {pid for there in old.values() for pid in there}
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(20)
        load(node, "f", tagged(2))
        traffic.wait_answers(20)
        assert set(next(iter(node.function("f").kept)).pids) == pids
        with node.control() as control:
            stages = [s.name for s in control.rollback("f")]
        assert "load" not in stages
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert places(node) == old


def test_the_controller_adds_a_replica_where_one_device_is_too_small(start_node, zoo) -> None:
    body = zoo("Burns", args={"iterations": 60_000}, replicas="auto", slo={"p99": "150ms"})
    node = start_node({"f": body}, devices=TWO_CORES)
    ((home, first),) = places(node).items()
    with Traffic(node, "f", clients=8, pace_s=0) as traffic:
        node.wait_function("f", is_on(ONE, OTHER))
        traffic.wait_answers(20)
    assert {type(error) for error in traffic.errors} <= {ResourceExhausted}
    assert set(traffic.answers.values()) == {1}
    assert places(node)[home] == first
    assert f"{home} is too small for the SLO of f" in moves(node)[0]
    decision = node.function("f").decision
    assert set(decision.device.split(", ")) == {ONE, OTHER}
    node.kill_daemon()
    node.start()
    assert sorted(places(node)) == [ONE, OTHER]


def test_a_lost_gpu_costs_a_replica_which_goes_elsewhere(
    start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGpu(3) as fake:
        meet(fake, monkeypatch)
        function = {**on_gpu(), "device": "auto", "replicas": 2}
        node = start_node({"f": function}, devices=THREE_GPUS)
        first, second = node.function("f").devices
        (third,) = THREE_GPUS.keys() - {first, second}
        kept = places(node)[second]
        gpus = list(fake.gpus)
        gpus[int(first[-1])] = replace(gpus[int(first[-1])], lost=1)
        with Traffic(node, "f") as traffic:
            traffic.wait_answers(20)
            fake.set_gpus(*gpus)
            node.wait_function("f", is_on(second, third))
            traffic.wait_answers(20)
        traffic.assert_each_answered_once()
        assert places(node)[second] == kept
        # Under MPS a share is fixed when a process starts: a shadow on each.
        with Traffic(node, "f") as traffic, node.control() as control:
            stages = [stage.name for stage in control.resize("f", "50%")]
            traffic.wait_answers(20)
        traffic.assert_each_answered_once()
        assert stages.count("swap") == 2
        found = node.wait_function("f", is_on(second, third))
        assert found.share_granted_percent == 50
        assert found.share_effective_percent == pytest.approx(50, abs=1)
        assert kept not in places(node).values()
        assert (
            moves(node)[0]
            == f"moves {first}, {second} -> {second}, {third}: {first} cannot be used"
        )
        node.stop()
