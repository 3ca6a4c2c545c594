from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gslice.core.errors import Unavailable
from gslice.demo.load import Measured, drive

X = {"x": np.zeros(1)}
Y = {"x": np.ones(1)}


class Server:
    """Stands in for a client: answers at once, in batches of two; `broken` fails, later."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Any]] = {"good": [], "broken": []}

    async def infer(self, function: str, inputs: Any) -> None:
        self.sent[function].append(inputs)
        await asyncio.sleep(0)
        if function == "broken" and len(self.sent["good"]) > 10:
            raise Unavailable("gone")

    async def statistics(self, function: str) -> list[dict[str, str]]:
        count = len(self.sent[function])
        return [{"inference_count": str(count), "execution_count": str(count // 2)}]


def driven(server: Server, functions: list[str], seconds: float) -> dict[str, Measured]:
    def ignore(measured: Mapping[str, Measured]) -> None:
        pass

    requests, concurrency = {name: [X, Y] for name in functions}, dict.fromkeys(functions, 2)
    return asyncio.run(drive(server, requests, concurrency, seconds, ignore))  # type: ignore


def test_requests_are_sent_in_turn_and_measured() -> None:
    server = Server()
    measured = driven(server, ["good"], 0.05)["good"]
    assert measured.ok == len(server.sent["good"]) > 2
    assert server.sent["good"][:3] == [X, Y, X]
    assert 0 < measured.percentile_us(50) <= measured.percentile_us(99)
    assert measured.batch_mean_rows == pytest.approx(2, abs=0.1)
    assert measured.rate_per_s == pytest.approx(measured.ok / measured.elapsed_s)


def test_the_first_failure_ends_all_of_the_load() -> None:
    with pytest.raises(Unavailable, match="gone"):
        driven(Server(), ["good", "broken"], 3600)


def test_nothing_answered_is_no_latency() -> None:
    assert Measured().percentile_us(99) == 0
