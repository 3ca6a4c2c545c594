"""A gRPC server's life, whatever speaks gRPC in it: start, retire, drain."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition
from gslice.frontend import health, reflection, servicer, sockets

if TYPE_CHECKING:
    from gslice.frontend.readiness import Readiness

SERVICES = (
    servicer.SERVICE,
    health.SERVICE,
    *(reflection.service_name(version) for version in reflection.VERSIONS),
)


_LEFT_POLL_S = 0.05


class Server(ABC):
    """One server, started at most once.

    Args:
        readiness: Turned to not ready when the server drains.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._retiring = False
        self._stopping: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def state(self) -> str:
        """`starting`, `serving`, `retiring` or `draining`."""
        if self._readiness.draining:
            return "draining"
        if self._retiring:
            return "retiring"
        return "serving" if self.address else "starting"

    async def start(self, address: str) -> str:
        """Listens and serves.

        Args:
            address: host:port; port 0 takes a free one.

        Returns:
            The address with the real port.

        Raises:
            FailedPrecondition: It serves at another address, or drains.
            Unavailable: The address cannot be listened on.
        """
        if self.state != "starting":
            if self.state == "serving" and address == self.address:
                return self.address
            raise FailedPrecondition(f"the front-end is {self.state} at {self.address}")
        port = await self._listen(address)
        self.address = f"{address.rpartition(':')[0]}:{port}"
        return self.address

    def direct(self, place: int) -> None:
        """Has new connections go to one of the front-ends that share the port; -1: to all.

        Raises:
            FailedPrecondition: It does not serve.
            Unavailable: The kernel does not do that.
        """
        if not self.address:
            raise FailedPrecondition(f"the front-end is {self.state}")
        if place < 0:
            sockets.divide(self._port)
        else:
            sockets.attract(self._port, place)

    async def retire(self, timeout_s: float) -> None:
        """Serves on until every client has gone elsewhere, or until the time is up.

        Whoever orders it has had new connections directed there.
        """
        self._retiring = True
        self._leave()
        await self._left(timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Reports not ready, refuses requests, lets those in flight finish, then closes.

        The listener stays until they have: clients could not tell a call that reaches a server
        which stops from one that they cancelled themselves. Calls that outlast `timeout_s` are
        cancelled, and their slots come back. Asked again, it waits for the same end.
        """
        if self._stopping is None:
            self._readiness.drain()
            self._refuse()
            self._stopping = asyncio.create_task(self._stop(timeout_s))
        await asyncio.shield(self._stopping)

    @abstractmethod
    async def _listen(self, address: str) -> int:
        """Begins to serve there; the port.

        Raises:
            Unavailable: The address cannot be listened on.
        """

    @abstractmethod
    def _leave(self) -> None:
        """Has clients connect anew."""

    @abstractmethod
    def _refuse(self) -> None:
        """Takes no more requests."""

    @abstractmethod
    async def _stop(self, timeout_s: float) -> None:
        """Lets requests in flight finish, then closes."""

    async def _left(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        # The kernel has no event for the last connection that ends.
        while sockets.connections(self._port) and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(_LEFT_POLL_S)

    @property
    def _port(self) -> int:
        return int(self.address.rpartition(":")[2] or 0)
