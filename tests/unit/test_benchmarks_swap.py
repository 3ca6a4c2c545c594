"""What the swap benchmark makes of resizes and of a client's calls, and its load."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop

from benchmarks import load
from benchmarks.cores import two_cores
from benchmarks.echo import METHOD, echo_server
from benchmarks.http2 import Connection, Request
from benchmarks.load import Call, OpenLoop
from benchmarks.resizes import (
    DispatchWaits,
    Resize,
    client_figures,
    first_wait_us,
    in_place_figures,
    swap_figures,
)
from benchmarks.swap import arms
from gslice._native import Segment

# ---- the load --------------------------------------------------------------------------------


class Silent:
    """A connection that answers when it is told to."""

    def __init__(self, wanted: int) -> None:
        self.waiting: list[asyncio.Future[bytes]] = []
        self.enough = asyncio.Event()
        self._wanted = wanted
        self._answering = False

    def call(self, _request: Request) -> asyncio.Future[bytes]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        if len(self.waiting) == self._wanted:
            self.enough.set()
        if self._answering:
            self.waiting[-1].set_result(b"")
        return self.waiting[-1]

    def answer(self) -> None:
        self._answering = True
        for future in self.waiting:
            future.set_result(b"")


def offered(connection: Any, rate_per_s: float) -> OpenLoop:
    return OpenLoop(connection, Request("nobody", METHOD, b""), rate_per_s)


def test_an_open_loop_waits_for_nobody_and_counts_from_when_a_call_was_due() -> None:
    async def run() -> tuple[list[Call], float]:
        silent = Silent(wanted=50)
        async with offered(silent, 1000) as loop:
            await silent.enough.wait()
            answered_s = time.perf_counter()
            silent.answer()
        return loop.calls[:50], answered_s

    calls, answered_s = asyncio.run(run())
    dues = [call.due_s for call in calls]
    assert dues == sorted(dues)
    assert all(call.answered_s >= answered_s for call in calls)
    assert calls[0].answered_s - calls[0].due_s > calls[49].answered_s - calls[49].due_s
    assert dues[49] - dues[0] == pytest.approx(49 / 1000, rel=0.5)


def test_lost_is_what_nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ANSWER_TIMEOUT_S", 0.01)

    async def run() -> list[Call]:
        silent = Silent(wanted=4)
        async with offered(silent, 1000) as loop:
            await silent.enough.wait()
            silent.waiting[0].set_result(b"")
            silent.waiting[1].set_exception(RuntimeError("the call failed"))
            silent.waiting[2].set_exception(ConnectionResetError())
        return loop.calls[:4]

    calls = asyncio.run(run())
    assert [call.lost for call in calls] == [False, False, True, True]
    assert [call.error for call in calls] == ["", "the call failed", "", ""]


def test_an_open_loop_over_a_server_gets_every_answer() -> None:
    async def run(address: str) -> list[Call]:
        async with await Connection.connect(address) as connection:
            async with OpenLoop(connection, Request(address, METHOD, b"x"), 500) as loop:
                await asyncio.sleep(0.3)
            return loop.calls

    with echo_server(two_cores().server) as address:
        calls = asyncio.run(run(address))
    assert len(calls) > 75
    assert not any(call.lost or call.error for call in calls)


def test_a_refused_call_leaves_the_connection_to_the_others() -> None:
    async def run(address: str) -> None:
        large = bytes(3_000_000)  # refused before all of it was sent
        async with await Connection.connect(address) as connection:
            for _ in range(3):
                with pytest.raises(RuntimeError):
                    await connection.call(Request(address, "/benchmarks.Echo/Nothing", large))
                assert await connection.call(Request(address, METHOD, b"x"), keep=True) == b"x"

    with echo_server(two_cores().server) as address:
        asyncio.run(run(address))


def test_a_broken_connection_refuses_calls() -> None:
    async def run(address: str) -> None:
        connection = await Connection.connect(address)
        async with connection:
            pass
        for _ in range(2):  # the first hears that the connection goes, the second that it is gone
            with pytest.raises(ConnectionError):
                await connection.call(Request(address, METHOD, b"x"))

    with echo_server(two_cores().server) as address:
        uvloop.run(run(address))


# ---- the figures -----------------------------------------------------------------------------


def resize(begun_s: float, ended_s: float, *flips_us: float, wait_us: float = math.nan) -> Resize:
    resized = SimpleNamespace(
        path="shadow" if flips_us else "in place",
        swaps=[SimpleNamespace(flip_us=flip_us) for flip_us in flips_us],
        prepare_ms=10 * begun_s,
        extra_memory_bytes=int(begun_s) << 20,
    )
    return Resize(begun_s, ended_s, resized, wait_us)


def test_a_hole_is_what_a_wait_at_a_swap_is_longer_than_usual() -> None:
    resizes = [resize(n, n, 5.0 + n, wait_us=20.0 + n) for n in range(1, 4)]
    resizes.append(resize(4, 4, 9.0))  # nobody came before the next one
    assert swap_figures(resizes, usual_wait_us=22) == {
        "holes": 3,
        "hole_us_p50": 0,
        "hole_us_p99": 1,
        "hole_us_max": 1,
        "flip_us_p50": 7.5,
        "prepare_ms_p50": 25,
        "extra_memory_mb": 4,
    }


def test_without_a_swap_the_hole_is_that_of_what_was_claimed_meanwhile() -> None:
    resizes, meanwhile = [resize(1, 2), resize(3, 4)], Mock(count=7)
    meanwhile.percentile_us.side_effect = {50: 3.0, 99: 40.0, 100: 90.0}.__getitem__
    assert swap_figures(resizes, usual_wait_us=1) == {}
    assert in_place_figures(resizes, meanwhile, usual_wait_us=1) == {
        "holes": 7,
        "hole_us_p50": 2,
        "hole_us_p99": 39,
        "hole_us_max": 89,
        "prepare_ms_p50": 20,
    }
    assert in_place_figures([*resizes, resize(5, 6, 1.0)], meanwhile, usual_wait_us=1) == {}


def test_a_call_belongs_to_the_resize_that_it_met() -> None:
    resizes = [resize(10, 11), resize(20, 21)]
    steady = [Call(1, 1.5), Call(11.5, 12.25), Call(30, 30.25)]
    during = [Call(9, 10.5), Call(10.25, 10.5), Call(10.75, 12.0), Call(12, 25)]
    refused = [Call(10.5, 10.5, "1 of 4"), Call(13, 19, "2 of 4"), Call(13, 21, "full")]
    assert client_figures(resizes, [*steady, *during, *refused, Call(10.5)]) == {
        "requests": 11,
        "waiting_max": 3,
        "lost": 1,
        "errors": 3,
        "errors_during": 2,
        "p99_ms_steady": 750,
        "p99_ms_during": 13_000,
        "seen": "2 x # of # (within 8.50 s); 1 x full (within 0.00 s)",
    }
    without = client_figures([], steady)
    assert without["p99_ms_during"] is None
    assert "seen" not in without


class Histogram:
    """A segment's dispatch waits."""

    def __init__(self) -> None:
        self._stats = Segment.create("f", [(4096, 4)], 0, 0).stats()

    def add(self, wait_us: int, count: int) -> None:
        self._stats["stage"]["dispatch"]["bins"][wait_us] += count

    def stats(self) -> Any:
        return self._stats


def test_only_waits_between_resizes_are_the_usual_ones() -> None:
    histogram: Any = Histogram()
    histogram.add(3, 1000)
    waits = DispatchWaits(histogram)
    for _ in range(2):
        with waits.counted():
            histogram.add(7, 10)
        histogram.add(12, 1000)
    assert waits.percentile_us(50) == pytest.approx(7.5)


def test_the_first_wait_is_that_of_who_serves() -> None:
    segment = Segment.create("f", [(4096, 4)], 0, 0)
    segment.flip(None, segment.add_instance())
    assert math.isnan(first_wait_us(segment))


def test_arms_go_up_and_down() -> None:
    found = arms()
    assert len({arm.name for arm in found}) == len(found)
    for arm in found:
        assert list(arm.shares_percent) == sorted(set(arm.shares_percent))
        assert len(arm.shares_percent) > 1
        assert arm.shares_percent[-1] == 100
