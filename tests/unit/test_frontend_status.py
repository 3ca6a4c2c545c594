"""What a servicer's method raises becomes its call's status, if the call is still there."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import grpc
import grpc.aio
import pytest

from gslice.core.errors import DeadlineExceeded
from gslice.frontend.gate import Gate
from gslice.frontend.status import answered


class Call:
    """A call's context.

    Args:
        raises: What the library says to a status.
    """

    def __init__(self, raises: Exception) -> None:
        self.status: tuple[grpc.StatusCode, str] | None = None
        self._raises = raises

    async def abort(self, code: grpc.StatusCode, details: str, *metadata: Any) -> None:
        self.status = code, details
        raise self._raises


OPEN = types.SimpleNamespace(gate=Gate(None))  # type: ignore[arg-type]


@answered
async def too_late(servicer: object, request: object, context: Call) -> None:
    raise DeadlineExceeded("the deadline passed")


def test_an_error_is_the_calls_status() -> None:
    call = Call(grpc.aio.AbortError())
    with pytest.raises(grpc.aio.AbortError):
        asyncio.run(too_late(OPEN, None, call))
    assert call.status == (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")


def test_a_call_that_its_client_has_ended_is_cancelled() -> None:
    call = Call(grpc.aio.InternalError("the batch could not be executed"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(too_late(OPEN, None, call))
