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
PARTS = 10
WARM_PARTS = 2
TIMEOUT_S = 3600

pytestmark = [pytest.mark.soak, pytest.mark.timeout(TIMEOUT_S)]


async def send(address: str, numbers: range, payload: np.ndarray) -> None:
    """Sends each number with a payload, some at a time, and checks every answer."""
    todo = iter(numbers)

    async def work(client: aio.Client) -> None:
        for number in todo:
            x = payload + payload.dtype.type(number)
            answer = await client.infer("same", {"x": x})
            assert np.array_equal(answer["x"], x), f"request {number}: a wrong answer"

    async with aio.Client(address, WAIT_S) as client:
        await asyncio.gather(*(work(client) for _ in range(AT_A_TIME)))


@pytest.mark.parametrize(
    ("count", "payload", "rss_bytes"),
    [
        pytest.param(SMALL, np.zeros((1, 1), np.int64), 8 * MIB, id="small"),
        # The front-end keeps freed memory for its next messages: up to what they need at a time,
        # in whatever order they come, so it settles late. All payloads together are 2 GiB.
        pytest.param(LARGE, np.arange(LARGE_FLOATS, dtype=np.float32), 64 * MIB, id="large"),
    ],
)
def test_nothing_grows(start_node, say, count: int, payload: np.ndarray, rss_bytes: int) -> None:
    dtype = {"int64": "INT64", "float32": "FP32"}[payload.dtype.name]
    dims = [-1, 1] if payload.ndim == 2 else list(payload.shape)
    body = {"identity": {"inputs": [{"name": "x", "dtype": dtype, "dims": dims}]}}
    node = start_node({"same": {**body, "queue": {"max": 32}}})
    used, began_s = [], time.monotonic()
    for part in range(PARTS):
        numbers = range(count * part // PARTS, count * (part + 1) // PARTS)
        asyncio.run(send(node.grpc_address, numbers, payload))
        used.append(usage(node.status()))
        roles = "; ".join(f"{role}: {use}" for role, use in used[-1].items())
        say(f"{time.monotonic() - began_s:6.0f} s  {numbers.stop} requests; {roles}")
    assert growth(used[WARM_PARTS], used[-1], rss_bytes=rss_bytes, fds=2, threads=0) == []
