"""Functions of a GPU in one process, each on SMs of its own: a node over the stand-ins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gslice.core.errors import GsliceError
from tests.fakes.gpu import FakeGpu
from tests.node import WAIT_S, Node, in_background, kill_and_wait, wait_counts
from tests.process.gpu import events, load, numbers, on_gpu
from tests.process.traffic import Traffic

GREEN = {"cuda:0": {"limiter": "green"}}
TWO = {"a": on_gpu(share="60%"), "b": on_gpu(share="40%")}


def percent(sms: int) -> float:
    """Of the stand-in's GPU, which has 15 groups of 8."""
    return 100 * sms / 132


def host_of(node: Node, *names: str) -> int:
    """The one process that these functions are in."""
    (pid,) = {pid for name in names for pid in node.worker_pids(name)}
    return pid


def check_sound(node: Node, *names: str) -> None:
    """Each serves, with as many workers as it should have."""
    for name in names:
        node.wait_function(name, lambda f: f.state == "READY" and len(f.workers) == 1)
        assert node.client().infer(name, numbers(3))["y"].tolist() == [[3]]


def test_shares_change_while_both_serve(
    start_gpu_node, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10")  # the daemon's is not the host's
    node = start_gpu_node(TWO, devices=GREEN)
    host = host_of(node, "a", "b")
    assert b"CUDA_MPS_ACTIVE" not in Path(f"/proc/{host}/environ").read_bytes()
    for name, sms in (("a", 72), ("b", 48)):
        found = node.function(name)
        assert (found.limiter, found.share_effective_percent) == ("green", percent(sms))
    with Traffic(node, "a", clients=2) as one, Traffic(node, "b", clients=2) as other:
        one.wait_answers(10)
        with node.control() as control:
            *_, first = control.resize("a", "20%")
            *_, second = control.resize("b", "80%")
        one.wait_answers(10)
        other.wait_answers(10)
    one.assert_each_answered_once()
    other.assert_each_answered_once()
    assert (first.resized.path, second.resized.path) == ("in place", "in place")
    assert first.resized.share_effective_percent == percent(24)
    assert second.resized.share_effective_percent == percent(96)
    assert second.resized.prepare_ms > 0
    assert host_of(node, "a", "b") == host
    assert gpu.counters(host)["live.green_contexts"] == 2
    assert [device.limiter for device in node.status().devices] == ["green"]
    with node.control() as control:
        for name in ("a", "b"):  # each has a log of its own
            log = "\n".join(control.logs(name, 50))
            assert log.count("moved in ") == 1, log


def test_functions_come_change_and_go_in_one_process(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"a": on_gpu(share="60%")}, devices=GREEN)
    host = host_of(node, "a")
    with Traffic(node, "a", clients=2) as traffic:
        traffic.wait_answers(5)
        weighted = on_gpu("Weighted", args={"factor": 2}, share="40%")
        assert load(node, "b", weighted)[-1] == "done", events(node)
        assert node.client().infer("b", numbers(4))["y"].tolist() == [[8]]
        weighted = on_gpu("Weighted", args={"factor": 3}, share="40%")
        assert "swap" in load(node, "b", weighted)
        assert node.client().infer("b", numbers(4))["y"].tolist() == [[12]]
        assert load(node, "b", on_gpu("Missing", share="40%"))[-1] == "failed"
        found = node.function("b")
        assert found.share_effective_percent == percent(48)
        assert host_of(node, "a", "b") == host
        with node.control() as control:
            list(control.unload("b"))
        traffic.wait_answers(5)
    traffic.assert_each_answered_once()
    assert host_of(node, "a") == host
    assert gpu.counters(host)["live.green_contexts"] == 1
    with node.control() as control:
        list(control.unload("a"))
    node.wait_status(lambda _: not Path(f"/proc/{host}").exists())
    assert load(node, "a", on_gpu())[-1] == "done", events(node)
    assert host_of(node, "a") != host


def test_the_death_of_a_host_is_that_of_all_and_nothing_is_lost(
    start_gpu_node, gpu: FakeGpu, gate
) -> None:
    waits = on_gpu("GateOnGpu", args={"gate": str(gate.path)}, share="40%")
    node = start_gpu_node({"a": on_gpu(share="60%"), "waits": waits}, devices=GREEN)
    host, client = host_of(node, "a", "waits"), node.client()
    segment = node.segment("waits")
    call = in_background(lambda: client.infer("waits", numbers(-7)))
    wait_counts(segment, lambda counts: counts["claimed"] == 1)
    kill_and_wait(host)
    gate.open()  # only the second run opens its other end
    assert call.result(WAIT_S)["y"].tolist() == [[-7]]
    check_sound(node, "a", "waits")
    assert host_of(node, "a", "waits") != host
    assert segment.stats()["outcome"]["requeued"] == 1
    said = events(node)
    assert f"its host, process {host}, killed by SIGKILL: that reached every function" in said
    assert "(a, waits); they are started again, and the death counts for waits" in said
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert 'gslice_gpu_faults_total{device="cuda:0"} 1.0' in page


def test_who_hangs_takes_all_along_and_is_the_only_one_blamed(
    start_gpu_node, gpu: FakeGpu, gate
) -> None:
    waits = on_gpu("GateOnGpu", args={"gate": str(gate.path)}, share="40%")
    node = start_gpu_node(
        {"a": on_gpu(share="60%"), "waits": waits}, devices=GREEN, node={"hang_timeout": "1s"}
    )
    host, client = host_of(node, "a", "waits"), node.client()
    call = in_background(lambda: client.infer("waits", numbers(-7)))
    node.wait_function("waits", lambda f: [w.pid for w in f.workers] not in ([], [host]))
    gate.open()
    assert call.result(WAIT_S)["y"].tolist() == [[-7]]
    check_sound(node, "a", "waits")
    assert "made no progress for 1 s; killed" in events(node)


def test_the_next_daemon_adopts_all_of_a_host(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node(TWO, devices=GREEN)
    host = host_of(node, "a", "b")
    with Traffic(node, "a", clients=2) as traffic:
        traffic.wait_answers(5)
        node.kill_daemon()
        traffic.wait_answers(5)
        node.start()
        traffic.wait_answers(5)
    traffic.assert_each_answered_once()
    assert host_of(node, "a", "b") == host
    with node.control() as control:
        *_, done = control.resize("a", "20%")
    assert (done.resized.path, done.resized.share_effective_percent) == ("in place", percent(24))
    kill_and_wait(host)
    check_sound(node, "a", "b")
    assert host_of(node, "a", "b") != host


def test_a_daemon_that_dies_in_the_middle_of_a_load_leaves_the_others(
    start_gpu_node, gpu: FakeGpu, gate, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    args = {"gate": str(gate.path), "marker": str(marker)}
    slow = on_gpu("SlowSetup", args=args, share="40%")
    node = start_gpu_node({"a": on_gpu(share="60%"), "b": slow}, devices=GREEN)
    host = host_of(node, "a", "b")
    marker.touch()
    loading = in_background(lambda: load(node, "b", {**slow, "args": {**args, "weight_bytes": 1}}))
    with gate.held():  # it is in its setup
        marker.unlink()
        node.kill_daemon()
    assert loading.exception(WAIT_S) is not None
    node.start()
    check_sound(node, "a", "b")
    assert host_of(node, "a", "b") == host


def test_an_upgrade_brings_all_into_a_new_host(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node(TWO, devices=GREEN)
    host = host_of(node, "a", "b")
    with Traffic(node, "a", clients=2) as traffic:
        traffic.wait_answers(5)
        with node.control() as control:
            assert [*control.upgrade(workers=True)][-1].name == "done", events(node)
        traffic.wait_answers(5)
    traffic.assert_each_answered_once()
    new = host_of(node, "a", "b")
    assert new != host
    node.wait_status(lambda _: not Path(f"/proc/{host}").exists())
    check_sound(node, "a", "b")


def test_a_function_is_measured_beside_what_serves(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node(TWO, devices=GREEN)
    host = host_of(node, "a", "b")
    with node.control() as control:
        *points, _ = control.profile("a", [20.0, 40.0], [1])
    shares = {round(step.point.share_percent) for step in points if step.HasField("point")}
    assert shares == {round(percent(24)), round(percent(48))}
    assert node.function("a").share_effective_percent == percent(72)
    assert host_of(node, "a", "b") == host


def test_what_needs_a_process_of_its_own_is_refused(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({}, devices=GREEN)
    variable = on_gpu(environment={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"})
    program = {"command": ["sleep", "1"], "device": "cuda:0", "share": "1%"}
    with node.control() as control:
        with pytest.raises(GsliceError, match="has one environment"):
            list(control.load("f", json.dumps(variable)))
        with pytest.raises(GsliceError, match="a program is a process"):
            list(control.load("f", json.dumps(program)))
