"""The control channel: one daemon at a time, and a life without one for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable

from gslice.core.errors import ChannelClosed, GsliceError, Unavailable
from gslice.ipc import messages
from gslice.ipc.async_channel import AsyncChannel
from gslice.ipc.channel import Received

log = logging.getLogger("gslice.frontend")


class DaemonLink:
    """Accepts daemons on the listening socket; the newest one is obeyed.

    Args:
        listener: The socket that the first daemon left; closed with the link.
        eventfd: Goes along with Hello.
        hello: What to say to a daemon that connects.
        obey: Handles an order: (received, channel).
        regions: What else to tell it: the clients' memory that is known here.
        on_orphaned: Called when no daemon has been there for `grace_s`.
        grace_s: How long to serve on without one.
    """

    def __init__(
        self,
        listener: socket.socket,
        eventfd: int,
        hello: Callable[[], messages.Hello],
        obey: Callable[[Received, AsyncChannel], None],
        regions: Iterable[tuple[messages.ClientRegion, int]],
        on_orphaned: Callable[[], None],
        grace_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._eventfd = eventfd
        self._hello = hello
        self._obey = obey
        self._regions = regions
        self._on_orphaned = on_orphaned
        self._grace_s = grace_s
        self._channel: AsyncChannel | None = None
        self._grace = self._loop.call_later(grace_s, on_orphaned)
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    async def repository(self, call: messages.RepositoryCall) -> None:
        """Passes a client's load or unload on, and returns when the daemon has done it.

        Raises:
            Unavailable: No daemon is there, or it went away meanwhile.
            GsliceError: The daemon's answer.
        """
        await self._ask(call, f"cannot {call.call} {call.name!r}")

    async def memory(self, call: messages.RegisterMemory | messages.UnregisterMemory) -> None:
        """Passes on what a client says of its memory; returns when all front-ends go by it.

        Raises:
            Unavailable: No daemon is there, or it went away meanwhile.
            GsliceError: The daemon's answer.
        """
        await self._ask(call, "cannot register or unregister shared memory")

    def wake(self, name: str) -> None:
        """Tells the daemon that a function that is not loaded is wanted.

        Raises:
            Unavailable: No daemon is there to load it.
        """
        if self._channel is not None:
            with contextlib.suppress(ChannelClosed):  # it left just now
                self._channel.send(messages.Wake(name))
                return
        raise Unavailable(
            f"function {name!r} is not loaded, and the daemon is away", hint="try again later"
        )

    async def _ask(self, call: messages.Message, otherwise: str) -> None:
        if self._channel is None:
            raise Unavailable(f"{otherwise}: the daemon is away", hint="try again later")
        await self._channel.request(call, messages.Ok)

    def close(self) -> None:
        """Leaves the daemon and stops accepting others."""
        self._grace.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:  # whoever connected has left already
            return
        if self._channel is not None:
            log.info("another daemon has connected; leaving the one before")
            self._channel.close()
        self._grace.cancel()
        channel = AsyncChannel(sock, self._receive, self._lost)
        self._channel = channel
        try:
            channel.send(self._hello(), (self._eventfd,))
            for region, fd in self._regions:
                channel.send(messages.KnownRegion(region), (fd,))
        except GsliceError as error:  # `_lost` has been called: it left within the handshake
            log.warning("a daemon connected and left: %s", error)

    def _receive(self, received: Received) -> None:
        if self._channel is not None:
            self._obey(received, self._channel)

    def _lost(self, reason: GsliceError) -> None:
        self._channel = None
        self._grace = self._loop.call_later(self._grace_s, self._on_orphaned)
        log.warning("no daemon (%s); serving on for %g s", reason, self._grace_s)
