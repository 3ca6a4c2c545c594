"""Events of a node that runs: what died, what became of its requests, who took its place."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gslice.core.errors import NotFound
from tests.node import WAIT_S, Node, in_background, kill_and_wait, wait_counts

ONE = np.array([1], np.int64)
STAGES = ["plan", "start", "load", "warm", "swap"]


def past(node: Node, limit: int = 1000, **wanted: Any) -> list[Any]:
    with node.control() as control:
        return list(control.events(limit, **wanted))


def until(events: Iterator[Any], *kinds: str) -> list[Any]:
    """The events up to the first ones of these kinds, in this order."""
    seen: list[Any] = []
    for kind in kinds:
        for event in events:
            seen.append(event)
            if event.kind == kind:
                break
        else:
            raise AssertionError(f"the events ended before {kind}: {seen}")
    return seen


def words(events: list[Any]) -> list[str]:
    return [event.text.split()[0] for event in events]


def test_a_busy_workers_death_is_told_in_order(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)})})
    client, (pid,) = node.client(), node.worker_pids("gate")
    with node.control() as control:
        first = control.events(100, follow=True, subject="gate")
        second = control.events(100, follow=True, kinds=["requeue", "restart"])
        told = in_background(lambda: until(first, "restart"))
        also_told = in_background(lambda: until(second, "restart"))
        call = in_background(lambda: client.infer("gate", {"x": -ONE}))
        wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
        kill_and_wait(pid)
        gate.open()
        assert call.result(WAIT_S)["y"].tolist() == [-1]
        crash, requeue, restart = told.result(WAIT_S)[-3:]
        assert also_told.result(WAIT_S) == [requeue, restart]
    assert [e.kind for e in (crash, requeue, restart)] == ["crash", "requeue", "restart"]
    assert crash.text == f"worker {pid} killed by SIGKILL"
    assert requeue.text.endswith("1 requeued, 0 poisoned, 0 failed")
    times_us = [e.monotonic_us for e in (crash, requeue, restart)]
    assert times_us == sorted(times_us)
    assert crash.id < requeue.id < restart.id
    took_ms = float(restart.text.split()[3])
    assert restart.text == f"another worker serves, {took_ms} ms after the death"
    assert took_ms == pytest.approx((restart.monotonic_us - crash.monotonic_us) / 1000, abs=50)
    assert past(node, subject="gate")[-3:] == [crash, requeue, restart]


def test_a_follower_hears_the_past_then_what_happens_until_the_daemon_stops(
    start_node, identity
) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        events = control.events(1000, follow=True)
        loaded = until(events, "load")
        told = words([e for e in loaded if e.subject == "same" and e.kind != "version"])
        assert told == [*STAGES, "serves"]
        with node.control() as other:
            assert list(other.unload("same"))[-1].name == "done"
        unloaded = until(events, "unload")
        assert words([e for e in unloaded if e.kind == "stage"]) == ["drain", "exit"]
        node.signal_daemon(signal.SIGTERM)
        rest = list(events)  # ends without an error
        assert node.wait_exit() == 0
    assert (rest[-1].subject, rest[-1].text) == ("daemon", "stops")
    ids = [event.id for event in (*loaded, *unloaded, *rest)]
    assert ids == sorted(set(ids))


def test_ids_ascend_from_one_daemon_to_the_next(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    before = past(node)
    node.kill_daemon()
    node.start()
    after = past(node)
    assert after[: len(before)] == before
    assert [e.id for e in after] == sorted({e.id for e in after})
    told = [(e.subject, e.kind, e.text) for e in after[len(before) :]]
    assert ("frontend", "adopt", "adopted front-end 0") in told
    assert ("echo", "adopt", "adopted 1 of 1 workers that serve it") in told


def test_a_frontends_death_is_told(start_node, identity) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        kill_and_wait(node.frontend_pids()[0])
        events = control.events(100, follow=True, subject="frontend")
        crash, restart = until(events, "crash", "restart")
    assert "front-end 0 killed by SIGKILL" in crash.text
    assert restart.text.startswith("another front-end 0 serves, ")


def test_who_watches_hears_each_event_once(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with node.control() as control:
        statuses = control.watch(interval_ms=50)
        newest = [event.id for event in next(statuses).events]
        assert newest == [event.id for event in past(node, 5)]
        kill_and_wait(node.worker_pids("echo")[0])
        news = itertools.chain.from_iterable(status.events for status in statuses)
        told = until(news, "crash", "restart")
    assert [event.id for event in told] == list(range(newest[-1] + 1, told[-1].id + 1))
    status = node.status()
    assert list(status.events) == []
    _, metrics = node.http(status.metrics_address, "/metrics")
    assert 'gslice_events_total{kind="crash"} 1.0' in metrics
    assert 'gslice_events_total{kind="fault"} 0.0' in metrics


def test_a_name_that_nothing_has_or_had_is_an_error(start_node, identity) -> None:
    node = start_node({"same": identity})
    with pytest.raises(NotFound, match="nothing is or was called 'typo' here"):
        past(node, subject="typo", follow=True)
    with node.control() as control:
        list(control.unload("same"))
    assert past(node, subject="same", kinds=["unload"])[0].text == "unloaded"
