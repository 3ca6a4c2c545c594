"""A servicer's method: who may call it, and what it raises, as its call's status."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio

from gslice.core.errors import GsliceError
from gslice.protos.rpc import abort

_R = TypeVar("_R")
Handler = Callable[[Any, Any, Any], Awaitable[_R]]


def answered(method: Handler[_R]) -> Handler[_R]:
    """Wraps a method of a servicer, which has a `gate`.

    Callers who may not call it are refused; what it raises from the tree ends the call with its
    status.
    """

    @functools.wraps(method)
    async def wrapper(servicer: Any, request: Any, context: Any) -> _R:
        try:
            servicer.gate.admit(method.__name__, context)
            return await method(servicer, request, context)
        except GsliceError as error:
            try:
                await abort(context, error)
            except grpc.aio.InternalError as gone:  # the client had ended the call a moment before
                raise asyncio.CancelledError from gone

    return wrapper
