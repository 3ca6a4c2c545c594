"""Bodies in and out: how large, how slow, how compressed they may be."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web

from gslice.core.errors import InvalidArgument
from gslice.core.units import format_size
from gslice.frontend.packing import PACKINGS, packed, unpacked
from gslice.frontend.rest.failures import TooLarge, TooSlow, UnknownPacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.frontend.rest.memory import Account

_SILENT_S = 10.0  # of a body of which nothing comes; as the native gRPC server has it
_SLOWEST_BYTES_PER_S = 64 << 10  # likewise, after that time
_UNREAD_S = 60.0  # of an answer of which nothing is read; likewise
_PIECE_BYTES = 256 << 10
_PACKED_FROM_BYTES = 1024  # what is smaller gains nothing


async def read_body(request: web.Request, most_bytes: int, account: Account) -> bytearray:
    """A request's body, unpacked.

    Args:
        request: Its head has come.
        most_bytes: Of it, compressed and not.
        account: Takes its memory.

    Raises:
        InvalidArgument: It is too large, or is not what its headers say.
        TooSlow: It does not come.
        ResourceExhausted: There is no memory for it now.
    """
    packing = request.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in (*PACKINGS, "identity"):
        raise UnknownPacking(
            f"a body compressed by {packing!r} is not read", hint=f"use {' or '.join(PACKINGS)}"
        )
    body = await _receive(request, most_bytes, account)
    if packing == "identity":
        return body
    plain = bytearray()
    try:
        for piece in unpacked(body, packing):
            _check_size(len(plain) + len(piece), most_bytes)
            account.take(len(piece))
            plain += piece
            await asyncio.sleep(0)  # the others' turn
    except ValueError as error:
        raise InvalidArgument(f"the body cannot be read as {packing}: {error}") from error
    return plain


async def send(
    request: web.Request,
    parts: Sequence[bytes],
    *,
    status: int = 200,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
    account: Account | None = None,
    closes: bool = False,
) -> web.StreamResponse:
    """Answers, compressed if the client asks for just one way to do it.

    Most HTTP libraries say by themselves that they would take any; that is no wish.

    Args:
        request: What is answered.
        parts: Of the body.
        status: Of HTTP.
        kind: Content-Type.
        headers: Further ones.
        account: Takes the memory of a body that is compressed; None: it is small.
        closes: The connection ends with it.
    """
    response = web.StreamResponse(status=status, headers=headers)
    response.content_type = kind
    packing = request.headers.get("Accept-Encoding", "").strip().lower()
    size = sum(map(len, parts))
    if account is not None and packing in PACKINGS and size >= _PACKED_FROM_BYTES:
        account.take(2 * size)
        parts = [await asyncio.to_thread(packed, b"".join(parts), packing)]
        response.headers["Content-Encoding"] = packing
        size = len(parts[0])
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Server"] = "gslice"
    response.content_length = size
    if closes:
        response.force_close()
    try:
        await _write(request, response, parts)
    except TimeoutError:  # it has stopped reading
        if request.transport is not None:
            request.transport.abort()
    return response


async def _receive(request: web.Request, most_bytes: int, account: Account) -> bytearray:
    promised = request.content_length or 0
    _check_size(promised, most_bytes)
    account.take(promised)
    body, began_s = bytearray(), time.monotonic()
    try:
        while True:
            async with asyncio.timeout(_SILENT_S):
                piece = await request.content.readany()
            if not piece:
                return body
            _check_size(len(body) + len(piece), most_bytes)
            account.take(max(promised, len(body) + len(piece)) - max(promised, len(body)))
            body += piece
            elapsed_s = time.monotonic() - began_s
            if elapsed_s > _SILENT_S and len(body) < elapsed_s * _SLOWEST_BYTES_PER_S:
                raise TooSlow(f"the body comes more slowly than {_SLOWEST_BYTES_PER_S} bytes/s")
    except TimeoutError as error:
        raise TooSlow(f"nothing of the body has come for {_SILENT_S:g} s") from error
    except web.RequestPayloadError as error:
        raise InvalidArgument(f"the body cannot be read: {error}") from error


async def _write(
    request: web.Request, response: web.StreamResponse, parts: Sequence[bytes]
) -> None:
    await response.prepare(request)
    for part in parts if request.method != "HEAD" else ():
        view = memoryview(part)
        for at in range(0, len(view), _PIECE_BYTES):
            async with asyncio.timeout(_UNREAD_S):
                await response.write(view[at : at + _PIECE_BYTES])
    async with asyncio.timeout(_UNREAD_S):
        await response.write_eof()


def _check_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise TooLarge(
            f"the body is larger than {format_size(most_bytes)}", hint="raise node.request_max"
        )
