"""What the daemon orders, done."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, InvalidArgument
from gslice.ipc import messages
from gslice.ipc.async_channel import AsyncChannel
from gslice.ipc.channel import Received

if TYPE_CHECKING:
    from gslice import _native
    from gslice.core.access import Access
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.gate import Gate
    from gslice.frontend.regions import Regions
    from gslice.frontend.server import Server

_SlowOrder = messages.Serve | messages.RetireFrontend | messages.DrainFrontend
_SLOW = (messages.Serve, messages.RetireFrontend, messages.DrainFrontend)

log = logging.getLogger("gslice.frontend")


class Orders:
    """Carries out the daemon's orders and answers them.

    Args:
        server: Started and drained on order.
        catalogue: Changed on order.
        regions: Likewise.
        gate: Likewise.
        open_segment: Maps a segment from its descriptor: `_native.Segment.open`.
        on_exit: Ends the process in order.
    """

    def __init__(
        self,
        server: Server,
        catalogue: Catalogue,
        regions: Regions,
        gate: Gate,
        open_segment: Callable[[int], _native.Segment],
        on_exit: Callable[[], None],
    ) -> None:
        self._server = server
        self._catalogue = catalogue
        self._regions = regions
        self._gate = gate
        self._open_segment = open_segment
        self._on_exit = on_exit
        self._tasks: set[asyncio.Task[None]] = set()
        self.drain_timeout_s = 10.0

    def obey(self, received: Received, channel: AsyncChannel) -> None:
        """Does what was ordered; orders that take their time go on in a task."""
        order = received.message
        if isinstance(order, _SLOW):
            task = asyncio.create_task(self._do_slowly(order, channel, received.seq))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            self._do(received)
        except GsliceError as error:
            _fail(error, order, channel, received.seq)
        else:
            _answer(messages.Ok(), channel, received.seq)

    def _do(self, received: Received) -> None:
        match received.message:
            case messages.AddFunction(spec, signature):
                self._catalogue.add(spec, signature, self._map(received.take_fd()))
            case messages.SetFunction(name, state, reason, spec, load_us):
                self._catalogue.set_state(name, state, reason, spec, load_us)
            case messages.RemoveFunction(name):
                self._catalogue.remove(name)
            case messages.SetAccess(access):
                self._set_access(access, received.take_fd())
            case messages.AddRegion(region):
                self._regions.add(region, received.take_fd())
            case messages.RemoveRegion(name, tenant):
                self._regions.remove(name, tenant)
            case messages.DirectConnections(place):
                self._server.direct(place)
            case messages.Exit():
                self._on_exit()
            case other:
                raise InvalidArgument(f"a front-end takes no {type(other).__name__}")

    async def _do_slowly(self, order: _SlowOrder, channel: AsyncChannel, seq: int) -> None:
        answer: messages.Message
        try:
            if isinstance(order, messages.Serve):
                self.drain_timeout_s = order.drain_timeout_ms / 1000
                address = await self._server.start(order.address)
                log.info("serving at %s", address)
                answer = messages.Serving(address)
            elif isinstance(order, messages.RetireFrontend):
                await self._server.retire(order.timeout_ms / 1000)
                answer = messages.Ok()
            else:
                await self._server.drain(order.timeout_ms / 1000)
                answer = messages.Ok()
        except GsliceError as error:
            _fail(error, order, channel, seq)
        else:
            _answer(answer, channel, seq)

    def _set_access(self, access: Access, board: int) -> None:
        try:
            self._gate.set(access, board)
        finally:
            os.close(board)

    def _map(self, fd: int) -> _native.Segment:
        try:
            return self._open_segment(fd)
        finally:
            os.close(fd)


def _answer(answer: messages.Message, channel: AsyncChannel, seq: int) -> None:
    if seq and not channel.closed:  # a daemon that left has no use for it
        channel.send(answer, seq=seq)


def _fail(error: GsliceError, order: messages.Message, channel: AsyncChannel, seq: int) -> None:
    log.error("%s failed: %s", type(order).__name__, error)
    _answer(messages.Failed(error.code, str(error)), channel, seq)
