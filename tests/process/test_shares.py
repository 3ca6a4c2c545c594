"""Shares are given out by the book, enforced, and changed in place."""

from __future__ import annotations

import time

import pytest

from tests.node import Node
from tests.process.traffic import Traffic

ONE_CORE = {"cpu": {"cpus": "0"}}


def work_per_s(node: Node, name: str, requests: int) -> float:
    """Requests of fixed work that are done in a second of the wall clock."""
    with Traffic(node, name, clients=2) as traffic:
        traffic.wait_answers(5)
        begun, done = time.monotonic(), traffic.answers.total()
        traffic.wait_answers(requests)
        return (traffic.answers.total() - done) / (time.monotonic() - begun)


def set_share(node: Node, name: str, body: dict, share: str) -> list[str]:
    import json

    with node.control() as control:
        return [s.name for s in control.load(name, json.dumps({**body, "share": share}))]


def test_a_quarter_gets_about_a_quarter_of_the_work_done(start_node, zoo) -> None:
    body = zoo("Burns")
    node = start_node({"burns": {**body, "share": "100%"}}, devices=ONE_CORE)
    if node.function("burns").limiter != "cgroup":
        pytest.skip("no control group can be made here, and whole cores cannot be a quarter")
    (pid,) = node.worker_pids("burns")
    full = work_per_s(node, "burns", 100)
    assert set_share(node, "burns", body, "25%") == ["plan", "done"]
    found = node.function("burns")
    assert found.share_effective_percent == pytest.approx(25, abs=0.5)
    quarter = work_per_s(node, "burns", 50)
    assert node.worker_pids("burns") == [pid]
    assert 0.17 < quarter / full < 0.33


def test_autos_share_what_fixed_shares_leave(start_node, identity) -> None:
    node = start_node({"a": {**identity, "share": "40%"}, "b": identity, "c": identity})
    granted = {f.name: f.share_granted_percent for f in node.status().functions}
    assert granted == {"a": 40, "b": 30, "c": 30}
    with node.control() as control:
        list(control.unload("b"))
    assert node.function("c").share_granted_percent == 60


def test_an_over_commit_is_refused_with_the_sum(start_node, identity) -> None:
    node = start_node({"a": {**identity, "share": "60%"}, "b": {**identity, "share": "50%"}})
    found = {f.name: f for f in node.status().functions}
    assert found["a"].state == "READY"
    assert found["b"].state == "FAILED"
    assert "a 60% + b 50% = 110%" in found["b"].reason


def test_instances_divide_the_share(start_node, identity) -> None:
    node = start_node({"a": {**identity, "share": "50%", "instances": 2}})
    found = node.function("a")
    assert found.share_granted_percent == 50
    if found.limiter == "cgroup":
        assert found.share_effective_percent == pytest.approx(50, abs=1)
