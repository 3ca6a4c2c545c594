"""Many requests, and nothing grows."""

from __future__ import annotations

import asyncio
import os
import time

import numpy as np
import pytest

from gslice.client import aio
from tests.node import WAIT_S
from tests.soak.usage import MIB, growth, usage

SMALL = int(os.environ.get("GSLICE_SOAK_REQUESTS") or 200_000)
LARGE = SMALL // 100
LARGE_FLOATS = MIB // 4
AT_A_TIME = 16
PARTS = 10  # the first one warms up
TIMEOUT_S = 3600

pytestmark = [pytest.mark.soak, pytest.mark.timeout(TIMEOUT_S)]


async def send(address: str, small: range, large: range) -> None:
    """Sends all, some at a time, and checks every answer."""
    picture = np.arange(LARGE_FLOATS, dtype=np.float32)
    todo = iter([*(("small", n) for n in small), *(("large", n) for n in large)])

    async def work(client: aio.Client) -> None:
        for name, number in todo:
            x = np.array([[number]], np.int64) if name == "small" else picture + number
            answer = await client.infer(name, {"x": x})
            assert np.array_equal(answer["x"], x), f"{name} request {number}: a wrong answer"

    async with aio.Client(address, WAIT_S) as client:
        await asyncio.gather(*(work(client) for _ in range(AT_A_TIME)))


def test_nothing_grows(start_node, identity, say) -> None:
    picture = {"name": "x", "dtype": "FP32", "dims": [LARGE_FLOATS]}
    body = {"identity": {"inputs": [picture]}, "queue": {"max": 32}}
    node = start_node({"small": identity, "large": body})
    used, began_s = [], time.monotonic()
    for part in range(PARTS):
        small, large = (
            range(count * part // PARTS, count * (part + 1) // PARTS) for count in (SMALL, LARGE)
        )
        asyncio.run(send(node.grpc_address, small, large))
        used.append(usage(node.status()))
        parts = "; ".join(f"{role}: {use}" for role, use in used[-1].items())
        say(f"{time.monotonic() - began_s:6.0f} s  {small.stop} small requests; {parts}")
    assert growth(used[0], used[-1], rss_bytes=8 * MIB, fds=2, threads=0) == []
