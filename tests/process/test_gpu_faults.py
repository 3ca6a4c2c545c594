"""A fatal fault in one function reaches all of its GPU: all come back, and nothing is lost."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gslice.core.errors import Internal, Unavailable
from tests.fakes.gpu import FakeGpu
from tests.node import WAIT_S, Node, in_background, wait_counts
from tests.process.gpu import MPS, events, meet, numbers, on_gpu
from tests.process.traffic import Traffic

THIRD = {"share": "30%"}


def test_everybody_comes_back_and_nothing_queued_is_lost(
    start_gpu_node, gpu: FakeGpu, tmp_path
) -> None:
    culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")}, **THIRD)
    node = start_gpu_node({"bad": culprit, "good": on_gpu(**THIRD)}, devices=MPS)
    before = node.worker_pids("bad") + node.worker_pids("good")
    with Traffic(node, "good", clients=4) as traffic:
        traffic.wait_answers(20)
        assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    for name in ("bad", "good"):
        found = node.wait_function(name, lambda f: f.state == "READY" and len(f.workers) == 1)
        assert not {worker.pid for worker in found.workers} & {*before}
        assert found.limiter == "mps"
        node.wait_all_free(name)
    said = events(node)
    assert "a fatal fault reached every function on it (bad, good)" in said
    assert f"MPS blames function bad (worker {before[0]})" in said
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert 'gslice_gpu_faults_total{device="cuda:0"} 1.0' in page


def test_what_another_function_ran_runs_again(start_gpu_node, gpu: FakeGpu, tmp_path, gate) -> None:
    culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")}, **THIRD)
    waits = on_gpu("GateOnGpu", args={"gate": str(gate.path)}, **THIRD)
    node = start_gpu_node({"bad": culprit, "waits": waits}, devices=MPS)
    client, segment = node.client(), node.segment("waits")
    call = in_background(lambda: client.infer("waits", numbers(-7)))
    wait_counts(segment, lambda counts: counts["claimed"] == 1)
    assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
    gate.open()  # only the second run opens its other end
    assert call.result(WAIT_S)["y"].tolist() == [[-7]]
    assert segment.stats()["outcome"]["requeued"] == 1


def ask_while_convicted(node: Node, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(Internal):
            node.client().infer("bad", numbers(-1))


def test_a_poisonous_request_is_convicted_and_others_pay_no_crash_loop(
    start_gpu_node, gpu: FakeGpu
) -> None:
    node = start_gpu_node({"bad": on_gpu("Faults", **THIRD), "good": on_gpu(**THIRD)}, devices=MPS)
    for _ in range(2):
        with pytest.raises(Internal, match="two workers died while they ran this request"):
            node.client().infer("bad", numbers(-1))
    # The fifth death in a minute; on a busy machine the first ones may be older by then.
    with pytest.raises(Unavailable, match="workers keep dying"):
        ask_while_convicted(node, 4)
    assert node.function("bad").state == "FAILED"
    node.wait_function("good", lambda f: f.state == "READY" and len(f.workers) == 1)
    assert node.client().infer("good", numbers(3))["y"].tolist() == [[3]]
    assert node.function("good").state == "READY"


def test_an_adopted_culprit_is_known_by_the_server(start_gpu_node, gpu: FakeGpu, tmp_path) -> None:
    culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")}, **THIRD)
    node = start_gpu_node({"bad": culprit, "good": on_gpu(**THIRD)}, devices=MPS)
    before = node.worker_pids("good")
    node.kill_daemon()
    node.start()
    assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
    found = node.wait_function(
        "good", lambda f: f.state == "READY" and [w.pid for w in f.workers] not in ([], before)
    )
    assert found.limiter == "mps"
    assert node.client().infer("good", numbers(3))["y"].tolist() == [[3]]


def test_without_mps_a_fault_is_the_culprit_s_alone(start_gpu_node, gpu: FakeGpu, tmp_path) -> None:
    culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")}, **THIRD)
    node = start_gpu_node(
        {"bad": culprit, "good": on_gpu(**THIRD)}, devices={"cuda:0": {"limiter": "none"}}
    )
    good = node.worker_pids("good")
    assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
    assert node.worker_pids("good") == good
    assert np.array_equal(node.client().infer("good", numbers(3))["y"], [[3]])


def test_another_gpu_does_not_notice(start_node, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with FakeGpu(2) as fake:
        meet(fake, monkeypatch)
        culprit = on_gpu("Faults", args={"marker": str(tmp_path / "marker")})
        node = start_node(
            {"bad": culprit, "good": on_gpu(device="cuda:1")},
            devices={name: {"limiter": "mps"} for name in ("cuda:0", "cuda:1")},
        )
        good = node.worker_pids("good")
        assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
        assert node.worker_pids("good") == good
        (pid,) = good
        assert f"sms.{fake.gpus[1].uuid}" in fake.counters(pid)
        node.stop()


def test_requests_are_not_convicted_of_what_another_function_did(
    start_gpu_node, gpu: FakeGpu, gate
) -> None:
    waits = on_gpu("GateOnGpu", args={"gate": str(gate.path)}, **THIRD)
    node = start_gpu_node({"bad": on_gpu("Faults", **THIRD), "waits": waits}, devices=MPS)
    client, segment = node.client(), node.segment("waits")
    call = in_background(lambda: client.infer("waits", numbers(-7)))
    wait_counts(segment, lambda counts: counts["claimed"] == 1)
    with pytest.raises(Internal, match="two workers died while they ran this request"):
        node.client().infer("bad", numbers(-1))  # each of them took the one that waits along
    gate.open()
    assert call.result(WAIT_S)["y"].tolist() == [[-7]]
    assert segment.stats()["outcome"]["poisoned"] == 0
    for name in ("bad", "waits"):
        node.wait_function(name, lambda f: f.state == "READY" and len(f.workers) == 1)
