"""Daemon and front-end are killed every few seconds, for minutes, while clients call."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable

import pytest

from gslice.core.errors import Unavailable
from tests.node import Node
from tests.process.drills import kill_frontend, replace_daemon
from tests.process.traffic import Traffic
from tests.soak.usage import MIB, growth, usage

SECONDS = float(os.environ.get("GSLICE_SOAK_SECONDS") or 300)
PAUSE_S = (1.0, 4.0)
WARM_KILLS = 5
PORT_AGAIN_S = 20.0  # restarts back off to 1 s; the machine may be busy

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 900)]


def drill(node: Node, traffic: Traffic, blow: Callable[[], float], seed: int) -> list[float]:
    """Strikes until the time is up; how long each recovery took. Nothing grows meanwhile."""
    chance, pace = random.Random(seed), threading.Event()
    took_s: list[float] = []
    warm = {}
    ends_s = time.monotonic() + SECONDS
    while time.monotonic() < ends_s or len(took_s) <= WARM_KILLS:
        pace.wait(chance.uniform(*PAUSE_S))
        traffic.wait_answers(20)
        took_s.append(blow())
        if len(took_s) == WARM_KILLS:
            warm = usage(node.status())
    assert growth(warm, usage(node.status()), rss_bytes=32 * MIB, fds=6, threads=4) == []
    return took_s


def told(took_s: list[float]) -> str:
    median_s = statistics.median(took_s)
    return f"{len(took_s)} times; done after {median_s:.2f} s (median), {max(took_s):.2f} s (most)"


def test_the_daemon_is_killed_for_minutes(start_node, zoo, identity, seed: int, say) -> None:
    node = start_node({"echo": zoo("Echo", instances=2), "same": identity})
    with Traffic(node, "echo", clients=4) as traffic:
        took_s = drill(node, traffic, lambda: replace_daemon(node), seed)
    say(f"daemon: {told(took_s)}; {traffic.sent} requests")
    traffic.assert_each_answered_once()


def test_the_front_end_is_killed_for_minutes(start_node, zoo, seed: int, say) -> None:
    node = start_node({"echo": zoo("Echo", queue={"max": 16})})
    with Traffic(node, "echo", clients=4) as traffic:
        took_s = drill(node, traffic, lambda: kill_frontend(node, "echo"), seed)
    lost = len(traffic.errors)
    say(f"front-end: {told(took_s)}; {traffic.sent} requests, {lost} UNAVAILABLE")
    assert max(took_s) < PORT_AGAIN_S
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + lost == traffic.sent
    assert set(traffic.answers.values()) == {1}
    node.wait_all_free("echo")
