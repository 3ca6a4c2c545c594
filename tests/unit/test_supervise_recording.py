"""Recording requests: which workers are asked, for how long, and what is made of their answers."""

from __future__ import annotations

import asyncio
import os
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.errors import ChannelClosed, FailedPrecondition
from gslice.core.types import Signature, TensorSpec
from gslice.ipc.messages import Ok, Record, Recorded, TakeRecorded
from gslice.supervise import recording
from gslice.supervise.recording import record

SIGNATURE = Signature((TensorSpec("x", "INT64", (-1, 1)),), ())


def copied(number: int) -> bytes:
    """A request as the native side writes it: rank, dims, length, data."""
    return struct.pack("=5q", 2, 1, 1, 8, number)


class FakeWorker:
    """Copies what it is told to have got."""

    def __init__(self, *numbers: int, full: bool = False) -> None:
        self.child, self.ready = self, True
        self.numbers, self.full = numbers, full
        self.ordered: list[Record] = []
        self.ended = 0
        self.dead = self.busy = False

    async def request(
        self, order: Any, answer: type, *, fds: tuple[int, ...] = (), timeout_s: float
    ) -> Any:
        if self.dead:
            raise ChannelClosed("it has ended")
        if isinstance(order, Record):
            if self.busy:
                raise FailedPrecondition("its requests are being recorded already")
            self.ordered.append(order)
            return Ok()
        assert isinstance(order, TakeRecorded)
        left = 0 if self.full else self.ordered[-1].requests - len(self.numbers)
        if order.end:
            self.ended += 1
            for fd in fds:
                os.write(fd, b"".join(map(copied, self.numbers)))
        return Recorded(len(self.numbers), max(0, left), self.full and order.end)


def function(*workers: FakeWorker) -> Any:
    deployment = SimpleNamespace(workers=list(workers), signature=SIGNATURE)
    return SimpleNamespace(name="f", deployment=deployment, program=None)


def recorded(found: Any, requests: int, duration_s: float = 60.0) -> tuple[list[int], bool]:
    counts: list[int] = []
    got = asyncio.run(record(found, requests, 4096, duration_s, counts.append))
    assert counts[-1] >= len(got.requests)
    for (tensor,) in got.requests:
        assert (tensor.name, tensor.dtype, tensor.shape) == ("x", "INT64", (1, 1))
    return [struct.unpack("=q", each.data)[0] for (each,) in got.requests], got.full


def test_all_workers_are_asked_and_no_more_is_kept_than_ordered() -> None:
    workers = FakeWorker(1, 2), FakeWorker(3, 4)
    assert recorded(function(*workers), 3) == ([1, 2, 3], False)
    for worker in workers:
        (order,) = worker.ordered
        assert (order.requests, order.size_bytes) == (3, 4096)
        assert 60e6 < order.duration_us <= 71e6
        assert worker.ended == 1


def test_it_ends_when_there_is_no_more_room() -> None:
    assert recorded(function(FakeWorker(1, full=True)), 9) == ([1], True)


def test_it_ends_in_time_with_what_there_is() -> None:
    assert recorded(function(FakeWorker(1)), 9, duration_s=0.0) == ([1], False)


def test_a_worker_that_comes_is_asked_and_one_that_ends_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "_LOOK_PERIOD_S", 0.0)
    old, new = FakeWorker(1), FakeWorker(2, 3)
    found = function(old)

    def swap(count: int) -> None:
        old.dead = True
        found.deployment.workers = [new]

    assert asyncio.run(record(found, 2, 4096, 60.0, swap)).requests[0][0].data[0] == 2
    assert new.ended == 1


def test_who_is_refused_leaves_the_others_as_they_were() -> None:
    free, busy = FakeWorker(), FakeWorker()
    busy.busy = True
    with pytest.raises(FailedPrecondition, match="being recorded already"):
        recorded(function(free, busy), 1)
    assert (free.ended, busy.ended) == (1, 0)


def test_what_does_not_serve_has_no_requests() -> None:
    with pytest.raises(FailedPrecondition, match="function f does not serve"):
        recorded(function(), 1)
    command = SimpleNamespace(name="f", deployment=None, program=object())
    with pytest.raises(FailedPrecondition, match="function f is a command"):
        recorded(command, 1)
