"""Functions change their device while they serve: nobody outside notices."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from gslice.core.errors import NotFound
from tests.fakes.gpu import FakeGpu
from tests.node import Node
from tests.process.gpu import meet, on_gpu
from tests.process.traffic import Traffic, cpu_s_per_request

ONE, OTHER = "cpu:0-0", "cpu:1-1"
TWO_CORES: dict[str, Any] = {ONE: {}, OTHER: {}}
TWO_GPUS: dict[str, Any] = {"cuda:0": {"limiter": "mps"}, "cuda:1": {"limiter": "mps"}}


@pytest.fixture(autouse=True)
def _two_cores() -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs cores 0 and 1")


def places(node: Node) -> dict[str, str]:
    return {function.name: function.device for function in node.status().functions}


def drained(node: Node) -> list[str]:
    return [device.name for device in node.status().devices if device.drained]


def moves(node: Node, name: str) -> list[str]:
    with node.control() as control:
        return [e.text for e in control.events(limit=100, subject=name, kinds=["move"])]


def diff(node: Node) -> list[Any]:
    with node.control() as control:
        return list(control.diff().changes)


def test_functions_are_spread_and_leave_a_drained_device_under_load(start_node, zoo) -> None:
    functions = {
        "a": zoo("Echo"),
        "b": zoo("Echo"),
        "fixed": {**zoo("Echo"), "device": ONE, "share": "20%"},
    }
    node = start_node(functions, devices=TWO_CORES)
    before = places(node)
    assert sorted({before["a"], before["b"]}) == [ONE, OTHER]
    mover = "a" if before["a"] == ONE else "b"
    with Traffic(node, mover) as traffic, node.control() as control:
        traffic.wait_answers(20)
        stages = {(s.name, s.detail) for s in control.drain(ONE)}
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert stages == {
        ("moved", f"{mover}: to {OTHER}"),
        ("stay", "fixed: pinned to it"),
        ("done", ""),
    }
    assert places(node) == {"a": OTHER, "b": OTHER, "fixed": ONE}
    assert drained(node) == [ONE]
    assert diff(node) == []
    told = moves(node, mover)
    assert told[0] == f"moves {ONE} -> {OTHER}: {ONE} is drained"
    assert told[1].startswith(f"moved {ONE} -> {OTHER}, ")
    assert moves(node, "fixed") == [f"stays: pinned to {ONE}"]
    # Neither a daemon that adopts nor one that starts anew brings it back, and both remember.
    pids = node.worker_pids(mover)
    node.kill_daemon()
    node.start()
    assert (places(node)[mover], node.worker_pids(mover), drained(node)) == (OTHER, pids, [ONE])
    node.stop()
    node.start()
    assert (places(node)[mover], diff(node), drained(node)) == (OTHER, [], [ONE])
    with node.control() as control:
        assert [s.name for s in control.undrain(ONE)] == ["done"]
        with pytest.raises(NotFound, match="no device cpu:9"):
            list(control.drain("cpu:9"))
    assert drained(node) == []
    assert places(node)[mover] == OTHER


def test_a_function_moves_where_its_slo_can_be_kept(start_node, zoo) -> None:
    slo_ms = round(6500 * cpu_s_per_request(60_000))  # more than a core gives four clients each
    body = {**zoo("Burns", args={"iterations": 60_000}), "slo": {"p99": f"{slo_ms}ms"}}
    node = start_node({"a": body, "b": body}, devices=TWO_CORES, node={"packing": "fewest"})
    assert set(places(node).values()) == {ONE}
    with (
        Traffic(node, "a", clients=4, pace_s=0) as one,
        Traffic(node, "b", clients=4, pace_s=0) as other,
    ):
        node.wait_status(lambda status: {f.device for f in status.functions} == {ONE, OTHER})
        one.wait_answers(5)
        other.wait_answers(5)
    one.assert_answered_once_or_shed()
    other.assert_answered_once_or_shed()
    (moved,) = (f.name for f in node.status().functions if f.device == OTHER)
    assert f"{ONE} is too small for the SLO of" in moves(node, moved)[0]
    assert diff(node) == []
    node.kill_daemon()
    node.start()
    assert places(node)[moved] == OTHER


def test_functions_leave_a_gpu_that_is_lost(start_node, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGpu(2) as fake:
        meet(fake, monkeypatch)
        function = {**on_gpu(), "device": "auto"}
        node = start_node({"a": function, "b": function}, devices=TWO_GPUS)
        assert sorted(places(node).values()) == ["cuda:0", "cuda:1"]
        (mover,) = (name for name, device in places(node).items() if device == "cuda:1")
        found, lost = fake.gpus[0], replace(fake.gpus[1], lost=1)
        with Traffic(node, mover) as traffic:
            traffic.wait_answers(20)
            fake.set_gpus(found, lost)
            node.wait_function(mover, lambda f: f.device == "cuda:0" and f.state == "READY")
            traffic.wait_answers(20)
        traffic.assert_each_answered_once()
        status = node.status()
        assert [bool(device.problem) for device in status.devices] == [False, True]
        assert "the GPU is lost" in status.devices[1].problem
        assert moves(node, mover)[0] == "moves cuda:1 -> cuda:0: cuda:1 cannot be used"
        fake.set_gpus(found, replace(lost, lost=0))
        node.wait_status(lambda s: not any(device.problem for device in s.devices))
        with node.control() as control:  # the next look that orders something finds nothing more
            assert [s.name for s in control.drain("cuda:1")] == ["done"]
        assert not any("-> cuda:1" in move for move in moves(node, mover))
        assert places(node)[mover] == "cuda:0"
        node.stop()
