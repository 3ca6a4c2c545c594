"""The one place that turns an error of the tree into a gRPC status."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from gslice.core.errors import GsliceError

DETAILS_CHARS = 2000  # a status travels in HTTP/2 headers, which clients bound to 8 KiB
_STATUS: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_R = TypeVar("_R")
Handler = Callable[[Any, Any, Any], Awaitable[_R]]


def answered(method: Handler[_R]) -> Handler[_R]:
    """Wraps a servicer's method: what it raises from the tree ends the call with its status."""

    @functools.wraps(method)
    async def wrapper(servicer: Any, request: Any, context: Any) -> _R:
        try:
            return await method(servicer, request, context)
        except GsliceError as error:
            await context.abort(_STATUS[error.code], str(error)[:DETAILS_CHARS])
            raise  # not reached: abort raises

    return wrapper
