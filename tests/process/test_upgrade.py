"""The daemon and its front-ends are replaced while clients call: no call fails or is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gslice.client import calls
from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.core.events import EventKind
from tests.cli import gslice
from tests.node import ANY_PORT, WAIT_S, Node, in_background, wait_pidfd
from tests.process.open_loop import OpenLoop
from tests.process.traffic import Traffic

AGE = {"connection_age": "500ms"}
STAGES = ["check", "handover", "adopt", "frontend", "done"]


@pytest.fixture(autouse=True)
def own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of one process would share a connection otherwise."""
    options = [*calls.OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    monkeypatch.setattr(calls, "OPTIONS", options)


def upgrade(node: Node) -> list[Any]:
    with node.control() as control:
        return list(control.upgrade())


def names(stages: list[Any]) -> list[str]:
    return [stage.name for stage in stages]


def test_upgrades_under_load_lose_nothing(start_node, zoo, identity) -> None:
    node = start_node({"echo": zoo("Echo", share="30%"), "same": identity}, node=AGE)
    first = node.status()
    frontends = {p.pid for p in first.frontends}
    with (
        Traffic(node, "echo", clients=3) as one,
        Traffic(node, "echo", clients=3) as two,
        OpenLoop(node.grpc_address, "same", channels=4, rate_per_s=80) as flow,
    ):
        for _ in range(2):
            stages = upgrade(node)
            assert names(stages) == STAGES, stages
            times = [stage.elapsed_ms for stage in stages]
            assert times == sorted(times)
            frontends |= {p.pid for p in node.status().frontends}
            one.wait_answers(20)
    one.assert_each_answered_once()
    two.assert_each_answered_once()
    flow.assert_each_answered_once()
    last = node.status()
    assert last.pid == first.pid
    assert last.uptime_s < first.uptime_s + 60
    assert last.grpc_address == first.grpc_address
    assert (last.http_address, last.metrics_address) == (first.http_address, first.metrics_address)
    assert len(frontends) == 3
    for old, new in zip(first.functions, last.functions, strict=True):
        assert [p.pid for p in new.workers] == [p.pid for p in old.workers]
    assert [f.restarts for f in last.frontends] == [0]


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_several_frontends_are_replaced_one_at_a_time(start_node, identity, count: int) -> None:
    """Up to as many as a node may have."""
    node = start_node({"same": identity}, node={**AGE, "frontends": count})
    before = set(node.frontend_pids())
    with OpenLoop(node.grpc_address, "same", channels=max(4, count), rate_per_s=50) as flow:
        stages = upgrade(node)
        flow.wait_answers(20)
    flow.assert_each_answered_once()
    assert names(stages) == [*STAGES[:-2], *count * ["frontend"], "done"]
    after = set(node.frontend_pids())
    assert len(after) == count
    assert not before & after


def test_nobody_else_takes_the_ports_or_the_state(start_node, identity) -> None:
    """HTTP clients wait; the lock and the process id stay."""
    node = start_node({"same": identity}, node={**AGE, "http": ANY_PORT})
    status = node.status()
    pidfd = os.pidfd_open(status.pid)
    ended, codes, errors = threading.Event(), [], []

    def probe() -> None:
        while not ended.is_set():
            try:
                for address, page in (
                    (status.http_address, "/v2/health/ready"),
                    (status.metrics_address, "/metrics"),
                ):
                    with urllib.request.urlopen(f"http://{address}{page}", timeout=WAIT_S) as reply:
                        codes.append(reply.status)
                        assert b"ready" in reply.read()
            except (OSError, AssertionError) as error:
                errors.append(error)

    probing = in_background(probe)
    assert names(upgrade(node)) == [*STAGES[:-1], "frontend", "done"]
    ended.set()
    probing.result(WAIT_S)
    assert errors == []
    assert set(codes) == {200}
    assert not wait_pidfd(pidfd, 0)
    os.close(pidfd)
    assert (node.state_dir / "daemon.lock").read_text().strip() == str(status.pid)


def test_descriptors_do_not_pile_up(start_node, identity) -> None:
    node = start_node({"same": identity}, node=AGE)
    upgrade(node)
    fds = Path(f"/proc/{node.status().pid}/fd")
    before = len(list(fds.iterdir()))
    upgrade(node)
    assert len(list(fds.iterdir())) <= before + 1


def test_a_configuration_that_cannot_be_read_changes_nothing(start_node, identity) -> None:
    node = start_node({"same": identity}, node=AGE)
    before = node.status()
    text = node.config_path.read_text()
    node.config_path.write_text(text.replace("version: 1", "version: 9"))
    stages = upgrade(node)
    assert names(stages) == ["check", "failed"]
    assert "would not start: " in stages[-1].detail
    assert "version: 9" in stages[-1].detail
    after = node.status()
    assert (after.pid, [f.pid for f in after.frontends]) == (
        before.pid,
        [f.pid for f in before.frontends],
    )
    assert after.uptime_s > before.uptime_s
    node.config_path.write_text(text)
    assert names(upgrade(node)) == STAGES


def test_code_of_another_protocol_is_refused(start_node, identity, tmp_path, monkeypatch) -> None:
    """What Python runs at every start stands for other code on disk; the daemon has begun."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '--check' in sys.argv or '--check' in sys.orig_argv:\n"
        "    import gslice.ipc.messages as messages\n"
        "    messages.PROTOCOL_VERSION += 1\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    node = start_node({"same": identity}, node=AGE)
    pids = node.status().pid, node.frontend_pids(), node.worker_pids("same")
    stages = upgrade(node)
    assert names(stages) == ["check", "failed"]
    assert "could not adopt the workers" in stages[-1].detail
    assert (node.status().pid, node.frontend_pids(), node.worker_pids("same")) == pids


def test_an_upgrade_waits_for_no_load(start_node, zoo, gate) -> None:
    body = zoo("GateInSetup", args={"gate": str(gate.path)})
    node = start_node({"slow": body}, node=AGE, ready=False)
    node.wait_status(lambda s: [f.state for f in s.functions] == ["LOADING"])
    with pytest.raises(FailedPrecondition, match="the daemon is STARTING"):
        upgrade(node)
    gate.open()
    node.wait_status(lambda s: s.state == "SERVING")
    with node.control() as control:
        loading = in_background(lambda: list(control.load("slow")))
        with gate.held():
            stages = upgrade(node)
        assert names(stages) == ["check", "failed"]
        assert "slow is being loaded" in stages[-1].detail
        assert loading.result(WAIT_S)[-1].name == "done"


def test_new_settings_are_taken_up(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")}, node=AGE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"grpc": node.grpc_address, "http": http, "metrics": "127.0.0.1:0"}
    bodies = {"echo": zoo("Echo"), "new": zoo("Echo")}
    node.write_config(bodies, {**settings, **AGE, "state_dir": "./state"})
    with Traffic(node, "echo", clients=2) as traffic:
        assert names(upgrade(node)) == STAGES
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    status = node.wait_status(lambda s: s.state == "SERVING")
    assert status.http_address == http
    assert [(f.name, f.state) for f in status.functions] == [("echo", "READY"), ("new", "READY")]


def test_another_state_directory_is_refused(start_node, identity) -> None:
    node = start_node({"same": identity}, node=AGE)
    text = node.config_path.read_text()
    node.config_path.write_text(text.replace("./state", "./elsewhere"))
    stages = upgrade(node)
    assert "nothing would be adopted" in stages[-1].detail
    node.config_path.write_text(text)


def test_a_daemon_that_dies_over_its_frontends_leaves_them_to_the_next(
    start_node, identity
) -> None:
    """The old front-end goes on retiring under the next daemon; the new one serves."""
    node = start_node({"same": identity}, node={"connection_age": "3s"})
    (old,) = node.frontend_pids()
    with OpenLoop(node.grpc_address, "same", channels=4, rate_per_s=40) as flow:
        with node.control() as control:
            stages = control.upgrade()
            while next(stages).name != "frontend":
                pass
            node.wait_status(lambda s: "RETIRING" in [f.state for f in s.frontends])
            node.kill_daemon()
            with pytest.raises(Unavailable, match="ended over its upgrade"):
                next(stages)
        node.start()
        status = node.wait_status(lambda s: [f.state for f in s.frontends] == ["SERVING"])
        flow.wait_answers(20)
    flow.assert_each_answered_once()
    assert status.frontends[0].pid != old


def test_a_stop_in_the_middle_ends_everything(start_node, identity) -> None:
    node = start_node({"same": identity}, node=AGE)
    with node.control() as control:
        stages = control.upgrade()
        while next(stages).name != "handover":
            pass
        node.signal_daemon(signal.SIGTERM)
        stages.close()
    assert node.wait_exit() in (0, -signal.SIGTERM), node.output()
    node.start()
    node.stop()


def test_the_command_shows_each_stage(start_node, identity) -> None:
    node = start_node({"same": identity}, node=AGE)
    where = ("--state-dir", str(node.state_dir))
    lines = gslice("upgrade", *where).stdout.splitlines()
    assert [name for name in STAGES if any(name in line for line in lines)] == STAGES
    passed = json.loads(gslice("upgrade", *where, "--json").stdout)
    assert [stage["name"] for stage in passed] == STAGES
    with node.control() as control:
        kinds = [EventKind.UPGRADE]
        texts = [event.text.split()[0] for event in control.events(100, kinds=kinds)]
    assert texts == STAGES * 2
    node.config_path.write_text(node.config_path.read_text().replace("version: 1", "version: 9"))
    assert "would not start" in gslice("upgrade", *where, status=1).stderr
