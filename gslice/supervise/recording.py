"""Requests of a function's clients, copied on an operator's order: what samples are made of."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import ChannelClosed, FailedPrecondition, GsliceError
from gslice.ipc.messages import Ok, Record, Recorded, TakeRecorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gslice.core.types import Signature
    from gslice.supervise.function import Function
    from gslice.supervise.worker import Worker

REQUESTS_MAX = 10_000
SIZE_MAX_BYTES = 1 << 30
DURATION_MAX_S = 3600.0
_LOOK_PERIOD_S = 0.2
_GRACE_S = 10.0  # for us to come for it, after the time is over
_ORDER_TIMEOUT_S = 10.0
_WORD = struct.Struct("=q")


@dataclass(frozen=True)
class RecordedTensor:
    """An input of a request.

    Attributes:
        name: Its own.
        dtype: As of `TensorSpec`.
        shape: With the batch dimension, if there is one.
        data: As it travels.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Recording:
    """What came of it.

    Attributes:
        requests: Inputs of each.
        full: Whether they ended because there was no more room.
    """

    requests: list[tuple[RecordedTensor, ...]]
    full: bool


async def record(
    function: Function,
    requests: int,
    size_bytes: int,
    duration_s: float,
    tell: Callable[[int], None],
) -> Recording:
    """Has a function's workers copy the inputs of the next requests that they answer well.

    Args:
        function: Whose.
        requests: How many.
        size_bytes: Of the copies of each worker, at most.
        duration_s: For how long.
        tell: Told how many there are, every now and then.

    Raises:
        FailedPrecondition: it does not serve, or somebody records it already.
    """
    asked: list[Worker] = []
    signature = _check_serving(function)
    until_s = time.monotonic() + duration_s
    try:
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            for worker in _workers(function):  # those, too, that came since, as for another share
                if worker not in asked:
                    await _ask(worker, Record(requests, size_bytes, _us(left_s + _GRACE_S)))
                    asked.append(worker)
            found = [state for worker in asked if (state := await _state(worker)) is not None]
            count = sum(state.requests for state in found)
            tell(min(count, requests))
            done = bool(found) and all(state.left == 0 for state in found)
            if count >= requests or not left_s or done:
                break
            await asyncio.sleep(min(_LOOK_PERIOD_S, left_s))
        parts = [part for worker in list(asked) if (part := await _take(worker, asked)) is not None]
    finally:
        for worker in asked:  # given up on the way: nothing is kept
            with contextlib.suppress(GsliceError):
                await asyncio.shield(_ask(worker, TakeRecorded(end=True), Recorded))
    taken = [each for _, data in parts for each in _parsed(data, signature)]
    return Recording(taken[:requests], any(state.full for state, _ in parts))


def _check_serving(function: Function) -> Signature:
    deployment = function.deployment
    if deployment is None or deployment.signature is None or not _workers(function):
        text = f"function {function.name} does not serve, so it has no requests to record"
        if function.program is not None:
            text = f"function {function.name} is a command: its requests do not pass here"
        raise FailedPrecondition(text)
    return deployment.signature


def _workers(function: Function) -> list[Worker]:
    deployment = function.deployment
    return [w for w in deployment.workers if w.ready] if deployment is not None else []


async def _ask(worker: Worker, order: Record | TakeRecorded, answer: type = Ok) -> None:
    await worker.child.request(order, answer, timeout_s=_ORDER_TIMEOUT_S)


async def _state(worker: Worker) -> Recorded | None:
    """How far a worker is; None: it has ended, and what it had copied with it."""
    try:
        return await worker.child.request(TakeRecorded(), Recorded, timeout_s=_ORDER_TIMEOUT_S)
    except ChannelClosed:
        return None


async def _take(worker: Worker, asked: list[Worker]) -> tuple[Recorded, bytes] | None:
    """What a worker has copied, which it has no more then; None: it has ended."""
    with os.fdopen(os.memfd_create("gslice-recording", os.MFD_CLOEXEC), "w+b") as file:
        order = TakeRecorded(end=True)
        try:
            state = await worker.child.request(
                order, Recorded, fds=(file.fileno(),), timeout_s=_ORDER_TIMEOUT_S
            )
        except ChannelClosed:
            return None
        asked.remove(worker)
        file.seek(0)
        return state, file.read()


def _parsed(data: bytes, signature: Signature) -> Iterator[tuple[RecordedTensor, ...]]:
    """Requests as `Instance.take_recorded` has them."""
    at = 0

    def word() -> int:
        nonlocal at
        (value,) = _WORD.unpack_from(data, at)
        at += _WORD.size
        return int(value)

    while at < len(data):
        tensors = []
        for spec in signature.inputs:
            shape = tuple(word() for _ in range(word()))
            size = word()
            tensors.append(RecordedTensor(spec.name, spec.dtype, shape, data[at : at + size]))
            at += size
        yield tuple(tensors)


def _us(duration_s: float) -> int:
    return math.ceil(duration_s * 1e6)
