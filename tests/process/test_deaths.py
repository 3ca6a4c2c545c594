"""kill -9 at the worst moments: every request is answered once, and slots come back."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from gslice.core.errors import Internal, Unavailable
from tests.node import WAIT_S, in_background, kill_and_wait, wait_all_free, wait_counts
from tests.process.traffic import Traffic

ONE = np.array([1], np.int64)


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def test_a_worker_is_killed_under_load_and_nobody_notices(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with Traffic(node, "echo") as traffic:
        for _ in range(3):
            traffic.wait_answers(100)
            kill_and_wait(node.worker_pids("echo")[0])
            traffic.wait_answers(100)
            node.wait_function("echo", lambda f: f.state == "READY" and len(f.workers) == 1)
    traffic.assert_each_answered_once()
    assert node.function("echo").workers[0].restarts == 3


def test_a_request_that_was_running_runs_again(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)})})
    client, segment = node.client(), node.segment("gate")
    call = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(segment, lambda counts: counts["claimed"] == 1)
    kill_and_wait(node.worker_pids("gate")[0])
    gate.open()  # only a second run opens its other end
    assert call.result(WAIT_S)["y"].tolist() == [-1]
    assert segment.stats()["outcome"]["requeued"] == 1


def test_with_side_effects_it_does_not_run_again(start_node, zoo, gate) -> None:
    body = zoo("Gate", args={"gate": str(gate.path)}, side_effects=True)
    node = start_node({"gate": body})
    client = node.client()
    call = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    kill_and_wait(node.worker_pids("gate")[0])
    with pytest.raises(Unavailable, match="may not run twice"):
        call.result(WAIT_S)
    node.wait_function("gate", lambda f: f.state == "READY" and len(f.workers) == 1)


def test_a_poisonous_request_is_convicted_and_the_others_are_answered(start_node, zoo) -> None:
    node = start_node({"dies": zoo("Dies")})
    with Traffic(node, "dies", clients=4) as traffic:
        traffic.wait_answers(50)
        with pytest.raises(Internal, match="two workers died while they ran this request"):
            node.client().infer("dies", numbers(-1))
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_one_of_two_instances_dies(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", instances=2)})
    pids = node.worker_pids("echo")
    assert len(set(pids)) == 2
    with Traffic(node, "echo") as traffic:
        traffic.wait_answers(50)
        kill_and_wait(pids[0])
        assert node.function("echo").state == "READY"
        node.wait_function(
            "echo", lambda f: len({w.pid for w in f.workers if w.state == "READY"} - {pids[0]}) == 2
        )
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_all_instances_die_at_once_and_all_come_back(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", instances=5)})
    pids = set(node.worker_pids("echo"))
    with Traffic(node, "echo") as traffic:
        traffic.wait_answers(50)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        node.wait_function(
            "echo", lambda f: len({w.pid for w in f.workers if w.state == "READY"} - pids) == 5
        )
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_a_crash_loop_fails_the_function_with_its_last_lines(start_node, zoo, tmp_path) -> None:
    bad = zoo("DiesInSetup", args={"marker": str(tmp_path / "marker")})
    node = start_node({"bad": bad, "echo": zoo("Echo")})
    assert node.client().infer("bad", numbers(1))["y"].tolist() == [[1]]
    kill_and_wait(node.worker_pids("bad")[0])
    found = node.wait_function("bad", lambda f: f.state == "FAILED")
    assert "workers keep dying" in found.reason
    assert "I will not start again" in found.reason
    with pytest.raises(Unavailable, match="keep dying"):
        node.client().infer("bad", numbers(1))
    assert node.client().infer("echo", numbers(5))["y"].tolist() == [[5]]
    assert node.function("echo").share_granted_percent == 100

    (tmp_path / "marker").unlink()
    with node.control() as control:
        assert [stage.name for stage in control.load("bad")][-1] == "done"
    assert node.client().infer("bad", numbers(1))["y"].tolist() == [[1]]


def test_what_waits_for_a_function_that_fails_is_answered(start_node, zoo, tmp_path) -> None:
    bad = zoo("DiesInSetup", args={"marker": str(tmp_path / "marker")})
    node = start_node({"bad": bad})
    with Traffic(node, "bad", clients=4) as traffic:
        traffic.wait_answers(20)
        segment = node.segment("bad")
        kill_and_wait(node.worker_pids("bad")[0])
        node.wait_function("bad", lambda f: f.state == "FAILED")
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    wait_all_free(segment)


def test_a_crash_loop_that_ends_while_another_edition_loads(
    start_node, zoo, tmp_path, gate
) -> None:
    bad = zoo("DiesInSetup", args={"marker": str(tmp_path / "marker")})
    good = zoo("GateInSetup", args={"gate": str(gate.path)})
    node = start_node({"bad": bad})
    kill_and_wait(node.worker_pids("bad")[0])
    with node.control() as control:
        load = in_background(lambda: list(control.load("bad", json.dumps(good))))
        found = node.wait_function("bad", lambda f: "keep dying" in f.reason)
        assert found.state == "LOADING"
        with pytest.raises(Unavailable, match="keep dying"):
            node.client().infer("bad", numbers(1))
        gate.open()
        assert load.result(WAIT_S)[-1].name == "done"
    assert node.client().infer("bad", numbers(1))["y"].tolist() == [[1]]
    assert node.function("bad").share_granted_percent == 100


def test_a_hanging_worker_is_killed_and_its_request_runs_again(start_node, zoo, tmp_path) -> None:
    body = zoo("Hangs", args={"marker": str(tmp_path / "marker")})
    node = start_node({"hangs": body}, node={"hang_timeout": "500ms"})
    before = node.worker_pids("hangs")
    assert node.client().infer("hangs", numbers(-1))["y"].tolist() == [[-1]]
    found = node.wait_function("hangs", lambda f: f.state == "READY" and len(f.workers) == 1)
    assert [worker.pid for worker in found.workers] != before
    with node.control() as control:
        assert any("made no progress for 0.5 s" in line for line in control.logs("daemon", 100))


def test_a_stopped_worker_is_killed_once_it_ignores_its_queue(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")}, node={"hang_timeout": "1s"})
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        os.kill(node.worker_pids("echo")[0], signal.SIGSTOP)
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_a_frontend_dies_and_another_takes_its_port(start_node, zoo, gate) -> None:
    node = start_node({"echo": zoo("Echo"), "gate": zoo("Gate", args={"gate": str(gate.path)})})
    address, (pid,) = node.grpc_address, node.frontend_pids()
    client = node.client()
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(50)
        call = in_background(lambda: client.infer("gate", {"x": -ONE}))
        wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
        kill_and_wait(pid)
        assert isinstance(call.exception(WAIT_S), Unavailable)
        gate.open()  # what ran for nobody ends, and its slot comes back
        traffic.wait_answers(50)
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    status = node.status()
    assert status.grpc_address == address
    assert status.frontends[0].pid != pid
    assert status.frontends[0].restarts == 1
    node.wait_all_free("gate")
