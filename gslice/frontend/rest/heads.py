"""Connections on which no request comes: they would stay, and a process has only so many."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

FIRST_S = 30.0
"""For the head of the first request; what comes later has aiohttp's `keepalive_timeout`."""


class Heads:
    """Makes connections, and ends those whose first request's head does not come.

    Args:
        server: Of aiohttp.
        first_s: How long it may take.
    """

    def __init__(self, server: web.Server, first_s: float = FIRST_S) -> None:
        self._server = server
        self._first_s = first_s
        self._awaited: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        """A connection, as loops ask for one."""
        connection = self._server()
        loop = asyncio.get_running_loop()
        self._awaited[connection] = loop.call_later(self._first_s, self._end, connection)
        return connection

    def came(self, request: web.Request) -> None:
        """A request has, as far as its head."""
        timer = self._awaited.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Waits for none any more."""
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()

    def _end(self, connection: web.RequestHandler) -> None:
        del self._awaited[connection]
        if connection.transport is not None:  # else it has gone by itself
            connection.force_close()
