from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from gslice.client import calls
from tests.process.conftest import identity, start_node, zoo

__all__ = ["identity", "start_node", "zoo"]

OWN_CONNECTION = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@pytest.fixture
def seed(say: Callable[[str], None]) -> int:
    """GSLICE_SOAK_SEED, or a new one; printed, so that a drill can be run again."""
    chosen = int(os.environ.get("GSLICE_SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    say(f"GSLICE_SOAK_SEED={chosen}")
    return chosen


@pytest.fixture(autouse=True)
def own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every client a connection of its own, which is soon made again when it broke."""
    monkeypatch.setattr(calls, "OPTIONS", [*calls.OPTIONS, *OWN_CONNECTION])


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Shows a line at once, while a long drill runs."""

    def show(line: str) -> None:
        with capfd.disabled():
            print(f"\n{line}", end="", flush=True)

    return show
