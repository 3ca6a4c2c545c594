"""Short drills; tests/soak has the long ones."""

from __future__ import annotations

import pytest

from gslice.client import calls
from gslice.core.errors import Unavailable
from tests.process.drills import cancel_calls, kill_frontend, replace_daemon
from tests.process.traffic import Traffic

PORT_AGAIN_S = 20.0  # a process starts in half a second; the machine may be busy


def test_a_front_end_is_killed_again_and_again(
    start_node, zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leases come back, and the port soon answers again."""
    fast = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
    monkeypatch.setattr(calls, "OPTIONS", [*calls.OPTIONS, *fast])
    node = start_node({"echo": zoo("Echo", queue={"max": 16})})
    address = node.grpc_address
    with Traffic(node, "echo", clients=4) as traffic:
        for killed in range(1, 4):
            traffic.wait_answers(20)
            assert kill_frontend(node, "echo") < PORT_AGAIN_S
            traffic.wait_answers(20)
            (frontend,) = node.status().frontends
            assert (frontend.restarts, frontend.address) == (killed, address)
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert set(traffic.answers.values()) == {1}
    node.wait_all_free("echo")


def test_the_daemon_is_killed_again_and_again(start_node, zoo, identity) -> None:
    node = start_node({"echo": zoo("Echo", instances=2), "same": identity})
    with Traffic(node, "echo", clients=4) as traffic:
        for _ in range(3):
            traffic.wait_answers(20)
            replace_daemon(node)
    traffic.assert_each_answered_once()


def test_many_calls_are_cancelled(start_node, zoo, identity) -> None:
    node = start_node({"echo": zoo("Echo"), "same": identity})
    outcomes = cancel_calls(node.grpc_address, ["echo", "same"], 2000, 1000, seed=7)
    assert outcomes.total() == 2000
    assert outcomes.keys() <= {"cancelled", "ok", "RESOURCE_EXHAUSTED"}, outcomes
    assert outcomes["cancelled"] > 20  # others are answered first
    for name in ("echo", "same"):
        node.wait_all_free(name)
        found = node.function(name)
        assert (found.queued, found.in_flight) == (0, 0)
