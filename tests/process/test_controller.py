"""The controller at work: a load moves shares, an operator sees why, and can ask what if."""

from __future__ import annotations

import time

import pytest

from gslice.core.errors import NotFound
from tests.node import WAIT_S
from tests.process.traffic import Traffic

ONE_CORE = {"cpu": {"cpus": "0"}}
SLO = {"slo": {"p99": "200ms"}}


def test_the_share_follows_the_load(start_node, zoo) -> None:
    body = {**zoo("Burns", args={"iterations": 20_000}), **SLO}
    node = start_node({"busy": body, "idle": body}, devices=ONE_CORE)
    if node.function("busy").limiter != "cgroup":
        pytest.skip("no control group can be made here: shares do not change in place")
    node.wait_function("idle", lambda f: f.HasField("decision"))
    with Traffic(node, "busy", clients=2, pace_s=0.01) as traffic:
        busy = node.wait_function(
            "busy", lambda f: f.share_granted_percent > 55 and f.decision.rate_per_s > 2
        )
        traffic.wait_answers(5)
        # On a machine that does other things, too, all answers of a window may be late.
        assert node.wait_function("busy", lambda f: f.attainment > 0).attainment <= 1
        with node.control() as control:
            planned = {p.name: p for p in control.plan().functions}
            more = {p.name: p for p in control.plan(["idle.rate=1000"]).functions}
            with pytest.raises(NotFound, match="no function nobody"):
                control.plan(["nobody.rate=1"])
            events = [e.text for e in control.events(limit=100, subject="busy", kinds=["share"])]
    traffic.assert_answered_once_or_shed()
    assert node.function("idle").share_granted_percent < 45
    assert "within 200 ms" in busy.decision.reason
    assert planned["busy"].decisions[0].capacity_per_s > 0
    assert more["idle"].decisions[0].share_percent > planned["idle"].decisions[0].share_percent
    assert more["idle"].decisions[0].shed_us == 190_000
    assert any("->" in text and "within 200 ms" in text for text in events)


def test_off_means_off(start_node, zoo) -> None:
    body = {**zoo("Echo"), **SLO}
    node = start_node({"a": body, "b": body}, node={"controller": "off"})
    with Traffic(node, "a", clients=2), node.control() as control:
        deadline_s = time.monotonic() + WAIT_S
        while not any(d.rate_per_s > 2 for f in control.plan().functions for d in f.decisions):
            assert time.monotonic() < deadline_s, "nobody looks"
        for function in node.status().functions:
            assert function.share_granted_percent == 50
            assert not function.HasField("decision")
