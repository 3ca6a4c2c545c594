"""From the doorbell to the calls: an eventfd wakes the loop, done tickets finish their futures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

from gslice.core.errors import DeadlineExceeded

if TYPE_CHECKING:
    from gslice import _native


class Completions:
    """The calls that wait for an answer. Lives on one event loop.

    Args:
        native: The data path whose tickets are waited for.
        loop: The loop that serves the calls.
    """

    def __init__(self, native: _native.Frontend, loop: asyncio.AbstractEventLoop) -> None:
        self._native = native
        self._loop = loop
        self._waiting: dict[int, tuple[asyncio.Future[None], asyncio.TimerHandle | None]] = {}
        self._emptied = asyncio.Event()
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self.eventfd, self.drain)

    def expect(self, ticket: int) -> asyncio.Future[None]:
        """The future that finishes when the ticket's answer is ready, or its deadline has passed.

        Whoever takes it ends it by `wait` or `abandon`, and nobody else's await sees the ticket.
        """
        future = self._loop.create_future()
        deadline_ns = self._native.deadline_ns(ticket)
        timer = None
        if deadline_ns is not None:
            # The pump expires what it claims too late; this answers when no pump claims at all.
            delay_s = (deadline_ns - time.monotonic_ns()) / 1e9
            timer = self._loop.call_later(delay_s, self._expire, ticket)
        self._waiting[ticket] = (future, timer)
        return future

    async def wait(self, ticket: int, future: asyncio.Future[None]) -> None:
        """Waits for the answer; if it ends in any other way, the ticket is given up.

        Raises:
            DeadlineExceeded: The deadline passed first.
        """
        try:
            await future
        except BaseException:
            self.abandon(ticket)
            raise

    def abandon(self, ticket: int) -> None:
        """Gives the ticket up: its slot comes back, at once or when its claimant is done."""
        future = self._forget(ticket)
        if future is not None:
            future.cancel()
        self._native.cancel(ticket)

    async def settle(self, timeout_s: float) -> None:
        """Returns when no call waits for an answer any more, or after `timeout_s`."""
        if self._waiting:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)

    def drain(self) -> None:
        """Finishes the futures of all tickets that are done, and arms the doorbell again."""
        with contextlib.suppress(BlockingIOError):  # nothing rang: a call to arm it
            os.eventfd_read(self.eventfd)
        for ticket in self._native.take_done():
            future = self._forget(ticket)
            if future is not None and not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Stops listening to the doorbell."""
        self._loop.remove_reader(self.eventfd)
        os.close(self.eventfd)

    def _expire(self, ticket: int) -> None:
        future = self._forget(ticket)
        self._native.cancel(ticket)
        if future is not None and not future.done():
            future.set_exception(DeadlineExceeded("the deadline passed without an answer"))
            future.exception()  # a stream may be given up before it comes to this answer

    def _forget(self, ticket: int) -> asyncio.Future[None] | None:
        future, timer = self._waiting.pop(ticket, (None, None))
        if timer is not None:
            timer.cancel()
        if not self._waiting:
            self._emptied.set()
        return future
