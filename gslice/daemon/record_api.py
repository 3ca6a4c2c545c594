"""`Record` of the control API: an order that ends with its caller, and what it found."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gslice.core.errors import Cancelled, DeadlineExceeded, GsliceError, InvalidArgument
from gslice.protos import message
from gslice.supervise.recording import DURATION_MAX_S, REQUESTS_MAX, SIZE_MAX_BYTES, record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gslice.daemon.daemon import Daemon
    from gslice.supervise.recording import Recording


async def record_steps(daemon: Daemon, request: Any) -> AsyncGenerator[Any, None]:
    """How many there are, whenever that changes; then each request, one a step.

    It is given up when nobody reads any more, or when the daemon stops.

    Raises:
        InvalidArgument: an amount is out of range.
        FailedPrecondition: the function does not serve.
        DeadlineExceeded: no request came.
    """
    _check(request)
    step = message("gslice.v1.RecordStep")
    function, duration_s = daemon.supervisor.function(request.name), request.duration_us / 1e6
    counts: asyncio.Queue[int | None] = asyncio.Queue()
    amounts = request.requests, request.size_bytes, duration_s

    async def carry_out() -> Recording | GsliceError:
        try:
            return await record(function, *amounts, counts.put_nowait)
        except GsliceError as error:
            return error

    task = daemon.background(carry_out())
    task.add_done_callback(lambda _: counts.put_nowait(None))
    told = -1
    try:
        while (count := await counts.get()) is not None:
            if count != told:
                told = count
                yield step(requests=count)
    finally:
        task.cancel()  # nothing, if it has ended
        await asyncio.wait([task])
    if task.cancelled():
        raise Cancelled(f"function {request.name} is not recorded any more: the daemon is stopping")
    if isinstance(recording := task.result(), GsliceError):
        raise recording
    if not recording.requests:
        if recording.full:
            raise InvalidArgument("a request is larger than all that may be recorded")
        raise DeadlineExceeded(f"function {request.name}: no request came in {duration_s:g} s")
    tensor = message("gslice.v1.RecordedTensor")
    for number, inputs in enumerate(recording.requests, 1):
        inputs_told = [
            tensor(name=each.name, dtype=each.dtype, shape=each.shape, data=each.data)
            for each in inputs
        ]
        last = number == len(recording.requests)
        yield step(requests=number, inputs=inputs_told, full=last and recording.full)


def _check(request: Any) -> None:
    for what, amount, most in (
        ("requests", request.requests, REQUESTS_MAX),
        ("bytes", request.size_bytes, SIZE_MAX_BYTES),
        ("seconds", request.duration_us / 1e6, DURATION_MAX_S),
    ):
        if not 0 < amount <= most:
            raise InvalidArgument(f"{amount:g} {what} cannot be recorded; ask for 1 to {most:g}")
