"""Start, stop, and what can be seen from outside."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gslice.core.errors import Unavailable
from tests.node import ANY_PORT, WAIT_S, in_background, wait_counts, wait_pidfd
from tests.process.traffic import Traffic

ONE = np.array([1], np.int64)


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def test_a_node_serves_and_leaves_nothing(start_node, identity) -> None:
    node = start_node({"same": identity})
    answer = node.client().infer("same", numbers(3, 4))
    assert answer["x"].tolist() == [[3], [4]]
    status = node.status()
    assert status.state == "SERVING"
    assert [f.state for f in status.functions] == ["READY"]
    assert not status.grpc_address.endswith(":0")
    for path, mode in ((node.state_dir, 0o700), (node.state_dir / "control.sock", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    node.stop()
    left = {path.name for path in node.state_dir.iterdir()}
    assert left == {"audit.jsonl", "daemon.lock", "gslice.db", "log", "run"}
    assert list((node.state_dir / "run").iterdir()) == []


def test_an_address_is_told_when_clients_can_connect(start_node, identity) -> None:
    node = start_node({"same": identity}, ready=False)
    told = []

    def serves(status) -> bool:
        told.append(status.grpc_address)
        return status.state == "SERVING"

    node.wait_status(serves)
    assert set(told) <= {"", node.grpc_address}
    assert node.client().ready()


def test_shutdown_by_the_control_api(start_node, identity) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        control.shutdown(1000)
    assert node.wait_exit() == 0
    node.assert_nothing_left()


def test_a_node_can_be_empty(start_node) -> None:
    node = start_node({})
    assert node.status().state == "SERVING"
    assert node.client().ready()


def test_one_daemon_a_state_directory(start_node) -> None:
    node = start_node({})
    second = subprocess.run(
        [sys.executable, "-m", "gslice.daemon", "-c", str(node.config_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert "another daemon" in second.stderr
    assert node.status().state == "SERVING"


def test_a_taken_port_is_told_and_nothing_is_left(start_node) -> None:
    status = start_node({}, node={"http": ANY_PORT}).status()
    for port in ("grpc", "http", "metrics"):
        taken = getattr(status, f"{port}_address")
        second = start_node({}, node={port: taken}, ready=False)
        assert second.wait_exit() == 1
        assert f"cannot listen on {taken}" in second.output()
        second.assert_nothing_left()


def test_stop_answers_what_was_accepted_and_reports_not_ready(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)})})
    client, status = node.client(), node.status()
    assert node.http(status.metrics_address, "/v2/health/ready")[0] == 200
    call = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    node.signal_daemon(signal.SIGTERM)
    node.wait_status(lambda status: status.state == "DRAINING")
    assert node.http(status.metrics_address, "/v2/health/ready")[0] == 503
    assert node.http(status.metrics_address, "/healthz")[0] == 200
    with pytest.raises(Unavailable):
        node.client().infer("gate", {"x": ONE})
    gate.open()
    assert call.result(WAIT_S)["y"].tolist() == [-1]
    assert node.wait_exit() == 0
    node.assert_nothing_left()


def test_a_second_signal_does_not_wait(start_node, zoo, gate) -> None:
    body = zoo("Gate", args={"gate": str(gate.path)})
    node = start_node({"gate": body}, node={"drain_timeout": "10m"})
    client = node.client()
    call = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    node.signal_daemon(signal.SIGTERM)
    node.wait_status(lambda status: status.state == "DRAINING")
    node.signal_daemon(signal.SIGINT)
    assert node.wait_exit() == 0
    assert isinstance(call.exception(WAIT_S), Unavailable)
    node.assert_nothing_left()


def test_a_stop_in_the_middle_of_a_swap_leaves_no_old_worker(start_node, zoo, gate) -> None:
    body = zoo("Gate", args={"gate": str(gate.path)})
    node = start_node({"gate": body}, node={"drain_timeout": "2s"})
    client = node.client()
    call = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    with node.control() as control:
        stages = (stage.name for stage in control.load("gate"))
        assert "drain" in stages  # the new one serves, the old one waits for the gate
        node.signal_daemon(signal.SIGTERM)
        assert node.wait_exit() == 0
    assert isinstance(call.exception(WAIT_S), Unavailable)
    node.assert_nothing_left()


def test_health_pages(start_node) -> None:
    """Of the port that clients come to, and of the daemon's own."""
    node = start_node({}, node={"http": ANY_PORT})
    status = node.status()
    for address, elsewhere in ((status.http_address, 404), (status.metrics_address, 200)):
        pages = {
            path: node.http(address, path)[0]
            for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/else")
        }
        assert pages == {
            "/healthz": 200,
            "/v2/health/live": 200,
            "/v2/health/ready": 200,
            "/else": elsewhere,
        }


def test_metrics_count_what_was_served(start_node, zoo) -> None:
    node = start_node({"raises": zoo("Raises", share="50%")})
    client = node.client()
    for number in range(5):
        client.infer("raises", numbers(number))
    with pytest.raises(Exception, match="negative: -1"):
        client.infer("raises", numbers(-1))
    status, text = node.http(node.status().metrics_address, "/metrics")
    assert status == 200
    samples = {
        (s.name, s.labels.get("outcome") or s.labels.get("kind") or s.labels.get("stage")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.labels.get("function") == "raises" and "le" not in s.labels
    }
    assert samples["gslice_requests_total", "ok"] == 5
    assert samples["gslice_requests_total", "failed"] == 1
    assert samples["gslice_request_stage_seconds_count", "total"] >= 5
    assert samples["gslice_request_stage_seconds_sum", "total"] > 0
    assert samples["gslice_share_percent", "requested"] == 50
    assert samples["gslice_share_percent", "granted"] == 50
    assert samples["gslice_worker_rss_bytes", None] > 1 << 20


def test_status_shows_rates_and_latencies_of_the_last_seconds(start_node, identity) -> None:
    node = start_node({"same": identity})
    with Traffic(node, "same", clients=4, output="x") as traffic:
        found = node.wait_function("same", lambda f: f.rate_per_s > 0 and f.p99_us > 0)
    assert found.p50_us <= found.p99_us
    assert found.batch_mean_rows >= 1
    traffic.assert_each_answered_once()


def test_several_frontends_share_the_address(start_node, identity) -> None:
    node = start_node({"same": identity}, node={"frontends": 2})
    assert len(set(node.frontend_pids())) == 2
    with Traffic(node, "same", clients=2, output="x") as traffic:
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_logs_of_functions_and_of_the_daemon(start_node, zoo) -> None:
    node = start_node({"raises": zoo("Raises")})
    with pytest.raises(Exception, match="negative: -7"):
        node.client().infer("raises", numbers(-7))
    with node.control() as control:
        assert any("negative: -7" in line for line in control.logs("raises", 100))
        assert any("raises: serves after" in line for line in control.logs("daemon", 100))


def test_children_end_when_no_daemon_comes_back(start_node, identity) -> None:
    node = start_node({"same": identity}, node={"orphan_grace": "300ms"})
    pidfds = [os.pidfd_open(pid) for pid in (*node.worker_pids("same"), *node.frontend_pids())]
    node.kill_daemon()
    assert all(wait_pidfd(pidfd, 30) for pidfd in pidfds)
    (node.state_dir / "control.sock").unlink()  # the daemon could not
    for socket in (node.state_dir / "run").iterdir():
        socket.unlink()
    node.assert_nothing_left()
