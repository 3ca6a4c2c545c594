"""The drill: a node under open traffic while everything that can die dies, for minutes."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import models
from tests.node import Node
from tests.soak.chaos import ALWAYS, Chaos
from tests.soak.ledger import Ledger
from tests.soak.traffic import OpenTraffic
from tests.soak.usage import MIB, Usage, growth, segments, usage

SECONDS = float(os.environ.get("GSLICE_SOAK_SECONDS") or 600)
ROUND_S = 20.0  # from one quiet point to the next
PROGRESS_S = 10.0
WARM_ROUNDS = 2

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 900)]


class Progress:
    """A line every ten seconds."""

    def __init__(self, ledger: Ledger, chaos: Chaos, say: Callable[[str], None]) -> None:
        self._say = say
        self._ledger = ledger
        self._chaos = chaos
        self._began_s = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.show()

    def show(self) -> None:
        outcomes = ", ".join(f"{n} {what}" for what, n in sorted(self._ledger.outcomes.items()))
        blows = ", ".join(f"{n} {what}" for what, n in sorted(self._chaos.done.items()))
        self._say(f"{time.monotonic() - self._began_s:6.0f} s  {outcomes} | {blows}")

    def _run(self) -> None:
        while not self._ended.wait(PROGRESS_S):
            self.show()


def check(ledger: Ledger, chaos: Chaos) -> None:
    """Every request has had its one outcome, and those that failed had reason to."""
    wrong = ledger.judge()
    assert not wrong, "\n".join([f"{len(wrong)} wrong:", *wrong[:10], *chaos.diary])


def quiet(node: Node, chaos: Chaos, traffic: OpenTraffic, ledger: Ledger) -> dict[str, Usage]:
    """Stops the traffic, checks that all is as at rest, and returns what is used; goes on."""
    traffic.pause()
    check(ledger, chaos)
    status = chaos.settle()
    for function in status.functions:
        node.wait_all_free(function.name)
    expected = {"daemon": len(status.functions), "front-end": len(status.functions)}
    for role, count in segments(status).items():
        assert count <= expected.get(role, 1), f"{role} holds {count} segments"
    found = usage(status)
    traffic.resume()
    return found


def test_chaos(start_node, zoo, identity, tmp_path: Path, seed: int, say) -> None:
    affine = models.affine(tmp_path)
    queue = {"queue": {"max": 1024}}
    functions = {
        "same": {**identity, **queue},
        "affine": {"model": str(affine), **queue},
        "echo": zoo("Echo", instances=ALWAYS["echo"], **queue),
        "picky": zoo("Raises", **queue),
    }
    with socket.create_server(("127.0.0.1", 0)) as free:  # clients find it again on this port
        address = f"127.0.0.1:{free.getsockname()[1]}"
    node = start_node(functions, node={"grpc": address, "hang_timeout": "2s", "spares": "auto"})
    ledger = Ledger()
    chaos = Chaos(node, ledger, seed)
    chance, pace = random.Random(seed), threading.Event()
    used: list[dict[str, Usage]] = []
    traffic = OpenTraffic(address, ledger, seed, affine)
    end_s = time.monotonic() + SECONDS
    with traffic, Progress(ledger, chaos, say):
        while time.monotonic() < end_s or len(used) < WARM_ROUNDS + 2:
            round_end_s = time.monotonic() + min(ROUND_S, SECONDS / (WARM_ROUNDS + 2))
            while time.monotonic() < round_end_s:
                pace.wait(chance.uniform(0.1, 2.0))
                chaos.strike()
            used.append(quiet(node, chaos, traffic, ledger))
        traffic.pause()
        check(ledger, chaos)
    warm, last = used[WARM_ROUNDS], used[-1]
    for role, use in last.items():
        say(f"{role}: {warm.get(role)} -> {use}")
    assert growth(warm, last, rss_bytes=32 * MIB, fds=6, threads=4) == []
