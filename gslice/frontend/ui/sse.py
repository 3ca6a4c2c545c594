"""Server-sent events: one answer that goes on, at the pace at which the browser reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_UNREAD_S = 30.0  # of what nothing is read; then the browser is left

Item = tuple[str, bytes]
"""An event's name, and its data as JSON, which has no line breaks."""


def item(name: str, data: Any) -> Item:
    """An event of anything that JSON can hold."""
    return name, json.dumps(data, separators=(",", ":")).encode()


async def send_events(
    request: web.Request,
    items: AsyncIterator[Item],
    closing: asyncio.Event,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Sends events until there are no more, the browser has left, or the front-end goes.

    What has been written and not read is bounded by the connection's buffer: the next item is
    asked for when there is room for it.

    Args:
        request: What is answered.
        items: The events.
        closing: Set when the front-end goes; the browser connects anew.
        headers: Further ones.
    """
    response = web.StreamResponse(headers={**headers, "Cache-Control": "no-store"})
    response.content_type = "text/event-stream"
    response.headers["X-Accel-Buffering"] = "no"  # of proxies that would wait for more
    response.force_close()
    await response.prepare(request)
    writing = asyncio.ensure_future(_write(response, items))
    leaving = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (writing, leaving):
            task.cancel()
        await asyncio.wait({writing, leaving})
    if not writing.cancelled() and (error := writing.exception()) is not None:
        if not isinstance(error, (TimeoutError, ConnectionError)):
            raise error
        if request.transport is not None:
            request.transport.abort()
        return response
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1.0):
            await response.write_eof()
    return response


async def _write(response: web.StreamResponse, items: AsyncIterator[Item]) -> None:
    async with contextlib.aclosing(items) as open_items:  # type: ignore[type-var]
        async for name, data in open_items:
            async with asyncio.timeout(_UNREAD_S):
                await response.write(b"event: %b\ndata: %b\n\n" % (name.encode(), data))
