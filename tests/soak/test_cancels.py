"""2,000 cancels a second for a minute: every slot comes back, and nothing grows."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from tests.process.drills import cancel_calls
from tests.soak.usage import MIB, growth, usage

RATE_PER_S = 2000
SECONDS = float(os.environ.get("GSLICE_SOAK_SECONDS") or 60)
PARTS = 6
FUNCTIONS = ["echo", "same"]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(10 * SECONDS + 600)]


def test_cancels(start_node, zoo, identity, seed: int, say) -> None:
    queue = {"queue": {"max": 64}}
    node = start_node({"echo": zoo("Echo", **queue), "same": {**identity, **queue}})
    outcomes: Counter[str] = Counter()
    used, count = [], round(RATE_PER_S * SECONDS / PARTS)
    for part in range(PARTS):
        began_s = time.monotonic()
        outcomes += cancel_calls(node.grpc_address, FUNCTIONS, count, RATE_PER_S, seed + part)
        rate_per_s = count / (time.monotonic() - began_s)
        for name in FUNCTIONS:
            node.wait_all_free(name)
        used.append(usage(node.status()))
        roles = "; ".join(f"{role}: {use}" for role, use in used[-1].items())
        say(f"{rate_per_s:.0f} calls/s; {dict(outcomes)}; {roles}")
    assert outcomes.total() == PARTS * count
    assert outcomes.keys() <= {"cancelled", "ok", "RESOURCE_EXHAUSTED"}, outcomes
    assert outcomes["cancelled"] > outcomes.total() / 10
    # A call that is not let go takes more than 1 KiB. How many are under way at most, and what a
    # front-end keeps of that, is the machine's mood: up to 27 MiB were seen on a loaded one.
    assert growth(used[1], used[-1], rss_bytes=32 * MIB, fds=4, threads=2) == []
