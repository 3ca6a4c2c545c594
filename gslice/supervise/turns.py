"""One shadow at a time on a device, and those that make room before those that take it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """The order in which functions of a device change their shares."""

    def __init__(self) -> None:
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._taken = False
        self._count = 0

    @contextlib.asynccontextmanager
    async def take(self, *, grows: bool) -> AsyncIterator[None]:
        """Holds the turn inside; whoever shrinks gets it before those that grow.

        Args:
            grows: The share becomes larger.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._count += 1
        heapq.heappush(self._waiting, (grows, self._count, turn))
        loop.call_soon(self._give)  # after those that were ordered together with it have come
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._taken = False
        self._give()

    def _give(self) -> None:
        while self._waiting and not self._taken:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.cancelled():
                turn.set_result(None)
                self._taken = True
