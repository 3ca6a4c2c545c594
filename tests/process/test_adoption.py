"""The daemon dies: serving goes on, and a new daemon takes over without a lost request."""

from __future__ import annotations

import os
import signal
import socket

import numpy as np
import pytest

from gslice.core.errors import NotFound, Unavailable
from tests.node import ANY_PORT, WAIT_S, kill_and_wait, wait_pidfd
from tests.process.traffic import Traffic


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def test_the_daemon_is_killed_under_load_and_the_next_adopts(start_node, zoo, identity) -> None:
    node = start_node({"echo": zoo("Echo", share="30%"), "same": identity})
    before = node.status()
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(50)
        node.kill_daemon()
        traffic.wait_answers(50)
        node.start()
        traffic.wait_answers(50)
        after = node.status()
    traffic.assert_each_answered_once()
    assert after.pid != before.pid
    assert after.grpc_address == before.grpc_address
    assert [p.pid for p in after.frontends] == [p.pid for p in before.frontends]
    assert [f.name for f in after.functions] == ["echo", "same"]
    for old, new in zip(before.functions, after.functions, strict=True):
        assert [p.pid for p in new.workers] == [p.pid for p in old.workers]
    echo = next(f for f in after.functions if f.name == "echo")
    assert (echo.state, echo.share_granted_percent) == ("READY", 30)


def test_an_adopted_worker_and_frontend_are_watched(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    node.kill_daemon()
    node.start()
    with Traffic(node, "echo", clients=2) as traffic:
        traffic.wait_answers(20)
        kill_and_wait(node.worker_pids("echo")[0])
        traffic.wait_answers(20)
        assert traffic.errors == []
        kill_and_wait(node.frontend_pids()[0])
        traffic.wait_answers(20)
    node.wait_status(lambda s: [f.state for f in s.frontends] == ["SERVING"])


def test_a_worker_that_died_while_no_daemon_ran_is_replaced(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", instances=2)})
    (first, second) = node.worker_pids("echo")
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        kill_and_wait(first)
        node.start()
        node.wait_function("echo", lambda f: len(f.workers) == 2)
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert second in node.worker_pids("echo")


def test_nothing_waits_for_ever_when_all_workers_died_too(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    (pid,) = node.worker_pids("echo")
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        kill_and_wait(pid)
        node.start()
        traffic.wait_answers(20)
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert {type(error) for error in traffic.errors} <= {Unavailable}  # it is still declared


def test_a_frontend_that_died_while_no_daemon_ran_is_replaced(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    (pid,) = node.frontend_pids()
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        kill_and_wait(pid)
    node.start()
    assert node.frontend_pids() != [pid]
    assert node.client().infer("echo", numbers(1))["y"].tolist() == [[1]]


def test_an_adopted_function_keeps_its_source(start_node, identity) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        assert [
            s.name
            for s in control.load(
                "other", "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}}"
            )
        ][-1] == "done"
    node.kill_daemon()
    node.start()
    assert {f.name: f.source for f in node.status().functions} == {
        "same": "file",
        "other": "overlay",
    }


def test_what_changed_meanwhile_is_loaded_and_what_went_is_unloaded(start_node, zoo) -> None:
    node = start_node({"kept": zoo("Echo"), "changed": zoo("Echo"), "gone": zoo("Echo")})
    kept, changed = node.worker_pids("kept"), node.worker_pids("changed")
    settings = {
        "grpc": node.grpc_address,
        "http": "off",
        "metrics": "127.0.0.1:0",
        "state_dir": "./state",
    }
    with Traffic(node, "changed", clients=2) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        bodies = {"kept": zoo("Echo"), "changed": zoo("Echo", queue={"max": 8}), "new": zoo("Echo")}
        node.write_config(bodies, settings)
        node.start()
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert sorted(f.name for f in node.status().functions) == ["changed", "kept", "new"]
    assert node.worker_pids("kept") == kept
    assert node.worker_pids("changed") != changed
    with pytest.raises(NotFound):
        node.client().infer("gone", numbers(1))
    assert node.client().infer("new", numbers(1))["y"].tolist() == [[1]]


def test_a_worker_that_cannot_answer_is_ended_and_replaced(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    (pid,) = node.worker_pids("echo")
    node.kill_daemon()
    os.kill(pid, signal.SIGSTOP)
    pidfd = os.pidfd_open(pid)
    node.start()
    assert wait_pidfd(pidfd, WAIT_S)
    os.close(pidfd)
    assert node.worker_pids("echo") != [pid]
    assert node.client().infer("echo", numbers(1))["y"].tolist() == [[1]]


def test_a_daemon_that_cannot_start_leaves_the_children_alone(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    pids = node.worker_pids("echo"), node.frontend_pids()
    settings = {"grpc": node.grpc_address, "http": "off", "metrics": ANY_PORT}
    settings["state_dir"] = "./state"
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, Traffic(node, "echo", clients=2) as traffic:
        node.kill_daemon()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for times, port in enumerate(("grpc", "http", "metrics"), 1):
            node.write_config({"echo": zoo("Echo")}, {**settings, port: address})
            node.start(ready=False)
            assert node.wait_exit() == 1
            assert node.output().count(f"cannot listen on {address}") >= times
            traffic.wait_answers(20)
        node.write_config({"echo": zoo("Echo")}, settings)
        node.start()
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert (node.worker_pids("echo"), node.frontend_pids()) == pids


def test_what_was_adopted_serves_on_when_the_start_fails_later(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    pids = node.worker_pids("echo"), node.frontend_pids()
    with Traffic(node, "echo", clients=2) as traffic:
        node.kill_daemon()
        control = node.state_dir / "control.sock"
        control.unlink()
        control.mkdir()  # no socket can be made there
        node.start(ready=False)
        assert node.wait_exit() == 1
        assert f"cannot listen on {control}" in node.output()
        traffic.wait_answers(20)
        control.rmdir()
        node.start()
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert (node.worker_pids("echo"), node.frontend_pids()) == pids


def test_other_cores_of_a_device_are_taken_up(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", share="50%")}, devices={"cpu": {"limiter": "threads"}})
    before = node.worker_pids("echo")
    settings = {"grpc": node.grpc_address, "http": "off", "metrics": ANY_PORT}
    settings["state_dir"] = "./state"
    with Traffic(node, "echo", clients=2) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        bodies = {"echo": zoo("Echo", share="50%")}
        node.write_config(bodies, settings, {"cpu": {"limiter": "threads", "cpus": "0"}})
        node.start()
        traffic.wait_answers(20)
        (pid,) = node.worker_pids("echo")
        assert [pid] != before
        assert os.sched_getaffinity(pid) == {0}
        node.kill_daemon()
        node.start()
        assert node.worker_pids("echo") == [pid]
    traffic.assert_each_answered_once()


def test_functions_of_a_device_that_is_gone_are_loaded_on_theirs(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo"), "same": zoo("Echo")})
    settings = {"grpc": node.grpc_address, "http": "off", "metrics": ANY_PORT}
    settings["state_dir"] = "./state"
    with Traffic(node, "echo", clients=2) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        bodies = {"echo": zoo("Echo"), "same": zoo("Echo")}
        node.write_config(bodies, settings, {"cpu:0-0": {}})
        node.start()
        traffic.wait_answers(20)
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert [(f.state, f.device) for f in node.status().functions] == [("READY", "cpu:0-0")] * 2


def test_a_new_address_is_taken_up(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    (pid,), old = node.frontend_pids(), node.grpc_address
    node.kill_daemon()
    with socket.create_server(("127.0.0.1", 0)) as free:
        new = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"grpc": new, "state_dir": "./state", "http": "off", "metrics": ANY_PORT}
    node.write_config({"echo": zoo("Echo")}, settings)
    node.start()
    assert node.status().grpc_address == new != old
    assert node.frontend_pids() != [pid]
    assert node.client().infer("echo", numbers(1))["y"].tolist() == [[1]]
