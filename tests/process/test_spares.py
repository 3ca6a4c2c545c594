"""Spares of a real node: they take a dead worker's place, and are gone when they should be."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice.device.niceness import GENTLE, may_raise
from tests.cli import gslice
from tests.node import WAIT_S, Node, kill_and_wait, wait_pidfd
from tests.process.gpu import load
from tests.process.traffic import Traffic

AUTO = {"spares": "auto"}
ONE = {"x": np.array([[1]], np.int64)}


def wait_spare(node: Node, *others: int) -> int:
    """The process of the one spare that there is to be, when it is none of these."""

    def there(status: Any) -> bool:
        return len(status.spares) == 1 and status.spares[0].pid not in others

    return int(node.wait_status(there).spares[0].pid)


def niceness(pid: int) -> set[int]:
    """Of all threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}


def test_it_takes_the_place_of_a_killed_worker(start_node, zoo) -> None:
    node = start_node({"says": zoo("Says")}, node=AUTO)
    spare = wait_spare(node)
    log = node.state_dir / "log" / "says.log"
    with Traffic(node, "says") as traffic:
        traffic.wait_answers(50)
        kill_and_wait(node.worker_pids("says")[0])
        traffic.wait_answers(50)
        node.wait_function("says", lambda f: [w.pid for w in f.workers] == [spare])
        assert wait_spare(node, spare) != spare
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()
    assert f"worker {spare} is set up" in log.read_text()  # by print, and by logging
    assert f"worker {spare} warns" in log.read_text()
    assert (node.state_dir / "log" / "spares.log").read_text() == ""
    assert niceness(spare) == {os.getpriority(os.PRIO_PROCESS, 0)}


def test_it_waits_at_low_priority_where_that_can_be_undone(start_node, identity) -> None:
    node = start_node({"f": identity}, node=AUTO)
    pid = wait_spare(node)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(pid) == ({GENTLE} if may_raise() else {own})


def test_a_function_with_an_environment_of_its_own_gets_a_fresh_process(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", environment={"A": "1"})}, node=AUTO)
    spare = wait_spare(node)
    kill_and_wait(node.worker_pids("echo")[0])
    node.wait_function("echo", lambda f: f.state == "READY" and f.workers[0].restarts == 1)
    (pid,) = node.worker_pids("echo")
    assert pid != spare
    assert b"A=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert wait_spare(node) == spare


def test_one_that_dies_is_replaced_and_no_function_cares(start_node, identity) -> None:
    node = start_node({"f": identity}, node=AUTO)
    spare = wait_spare(node)
    kill_and_wait(spare)
    assert wait_spare(node, spare) != spare
    assert node.function("f").workers[0].restarts == 0
    with node.control() as control:
        told = [line for line in control.logs("daemon", 100) if str(spare) in line]
    assert len(told) == 1
    assert f"spare {spare} for identity killed by SIGKILL" in told[0]


def test_each_engine_in_use_has_one(start_node, zoo, identity) -> None:
    node = start_node({"f": identity, "echo": zoo("Echo")}, node=AUTO)
    status = node.wait_status(lambda status: len(status.spares) == 2)
    assert sorted(spare.engine for spare in status.spares) == ["identity", "python"]
    with node.control() as control:
        for _ in control.unload("f"):
            pass
    node.wait_status(lambda status: [spare.engine for spare in status.spares] == ["python"])


def test_status_and_metrics_show_it(start_node, identity) -> None:
    node = start_node({"f": identity}, node=AUTO)
    spare = wait_spare(node)
    status = node.status()
    assert status.spares[0].rss_bytes > 1 << 20
    _, page = node.http(status.metrics_address, "/metrics")
    assert 'gslice_spares{engine="identity"} 1.0' in page
    assert 'gslice_spares_rss_bytes{engine="identity"}' in page
    shown = gslice("status", "--state-dir", str(node.state_dir)).stdout
    assert f"spares: identity (pid {spare}," in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_daemon(start_node, identity, number: signal.Signals) -> None:
    node = start_node({"f": identity}, node=AUTO)
    pidfd = os.pidfd_open(wait_spare(node))
    try:
        node.signal_daemon(number)
        node.wait_exit()
        assert wait_pidfd(pidfd, WAIT_S)
    finally:
        os.close(pidfd)
    if number == signal.SIGKILL:
        node.start()  # what else the first one left is this one's
        wait_spare(node)
        assert node.client().infer("f", ONE)


def test_the_next_daemon_ends_one_that_cannot_end_itself(start_node, identity) -> None:
    node = start_node({"f": identity}, node=AUTO)
    spare = wait_spare(node)
    pidfd = os.pidfd_open(spare)
    try:
        os.kill(spare, signal.SIGSTOP)
        node.kill_daemon()
        node.start()
        assert wait_pidfd(pidfd, WAIT_S)
    finally:
        os.close(pidfd)
    assert wait_spare(node) != spare


def test_without_spares_there_is_none(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")}, node={"spares": 0})
    kill_and_wait(node.worker_pids("echo")[0])
    status = node.wait_status(
        lambda s: s.functions[0].state == "READY" and s.functions[0].workers[0].restarts == 1
    )
    assert len(status.spares) == 0
    assert not (node.state_dir / "log" / "spares.log").exists()


def test_a_load_takes_one_too(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")}, node=AUTO)
    spare = wait_spare(node)
    assert load(node, "echo", zoo("Echo", lanes=1))[-1] == "done"
    assert node.worker_pids("echo") == [spare]
