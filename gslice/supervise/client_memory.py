"""Clients' memory that requests may name: all front-ends know the same regions.

A client registers at whichever front-end its connection reached; its requests may reach another.
So the daemon opens the file, hands it to every front-end, those started later included, and answers
when all have it. Front-ends tell a daemon that adopts them what they have.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import (
    AlreadyExists,
    ChannelClosed,
    GsliceError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from gslice.core.units import format_size
from gslice.ipc.messages import AddRegion, ClientRegion, Ok, RemoveRegion
from gslice.ipc.process import start_ticks
from gslice.supervise.client_file import open_region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gslice.core.config import ClientMemoryConfig
    from gslice.ipc.messages import Message
    from gslice.supervise.child import Child
    from gslice.supervise.tasks import Tasks

REGIONS_MAX = 256
"""Each takes a descriptor, here and in front-ends."""
_ORDER_TIMEOUT_S = 10.0
_Who = tuple[int, int]
"""A process: its id and its start time."""


@dataclass
class _Registered:
    """A region and its file, which is owned here."""

    region: ClientRegion
    fd: int

    @property
    def who(self) -> _Who:
        """The process that it ends with."""
        return self.region.pid, self.region.started


class _Owner:
    """A client's process, seen until it ends: by a descriptor, so never mistaken for another.

    It may be a command's, whose status another has to collect.
    """

    def __init__(self, who: _Who, on_end: Callable[[_Who], None]) -> None:
        pid, started = who
        self._loop = asyncio.get_running_loop()
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise NotFound(f"there is no process {pid}") from None
        except OSError as error:
            raise InvalidArgument(f"process {pid} cannot be watched: {error.strerror}") from error
        try:
            if start_ticks(pid) != started:
                raise NotFound(f"process {pid} is not the client any more")
        except BaseException:
            os.close(self._pidfd)
            raise
        self._loop.add_reader(self._pidfd, on_end, who)

    def close(self) -> None:
        """Looks no more."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)


class ClientMemory:
    """The regions of the node.

    Args:
        config: What may be registered; None: nothing.
        frontends: The front-ends that run.
        tasks: Where it goes on in the background.
    """

    def __init__(
        self,
        config: ClientMemoryConfig | None,
        frontends: Callable[[], Iterable[Child]],
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._frontends = frontends
        self._tasks = tasks
        self._regions: dict[str, _Registered] = {}
        self._owners: dict[_Who, _Owner] = {}

    # ---- what clients ask for ----------------------------------------------------------------

    async def register(self, asked: ClientRegion) -> None:
        """Lets requests name a region; returns when those at every front-end may.

        Raises:
            Unimplemented: it is not offered.
            AlreadyExists: another region has the name.
            ResourceExhausted: there are too many, or too large ones.
            GsliceError: its file cannot be used: see `open_region`.
        """
        if self._config is None:
            raise Unimplemented(
                "clients' system shared memory is not offered",
                hint="send tensors raw, or set node.client_memory",
            )
        region, fd = open_region(asked, self._config)
        try:
            is_new = self._enter(region, fd)
            try:
                await self._tell(AddRegion(region), (fd,))
            except GsliceError:
                if is_new:
                    await self._remove([region.name])
                raise
        finally:
            os.close(fd)

    async def unregister(self, name: str) -> None:
        """Takes a region from all front-ends; an unknown name is no error.

        Args:
            name: The region; empty: all but those of gslice's own clients, who look after theirs.
        """
        names = [name] if name else [n for n, r in self._regions.items() if not r.region.pid]
        await self._remove([name for name in names if name in self._regions])

    # ---- what front-ends have -----------------------------------------------------------------

    def keep(self, child: Child, region: ClientRegion, fd: int) -> None:
        """A front-end of an earlier daemon has a region; one whose client is gone ends.

        Args:
            child: The front-end.
            region: As it has it.
            fd: Of its file; owned here from now on.
        """
        if self._config is None or region.name in self._regions:  # None: the front-end will go
            os.close(fd)
            return
        try:
            self._watch(region)
        except GsliceError:
            os.close(fd)
            child.send(RemoveRegion(region.name))
            return
        self._regions[region.name] = _Registered(region, fd)
        for other in self._frontends():
            if other is not child:
                other.send(AddRegion(region), (fd,))

    def introduce(self, child: Child) -> None:
        """Tells a front-end of all regions."""
        for entry in self._regions.values():
            child.send(AddRegion(entry.region), (entry.fd,))

    def close(self) -> None:
        """Forgets all; front-ends keep what they have."""
        for owner in self._owners.values():
            owner.close()
        self._owners.clear()
        for entry in self._regions.values():
            os.close(entry.fd)
        self._regions.clear()

    # ---- parts -----------------------------------------------------------------------------

    def _enter(self, region: ClientRegion, fd: int) -> bool:
        """Whether it was not known."""
        known = self._regions.get(region.name)
        if known is not None:
            if known.region == region and os.path.sameopenfile(known.fd, fd):
                return False
            raise AlreadyExists(
                f"region {region.name!r} is registered with another range or key,"
                f" {known.region.key!r}",
                hint="unregister it first",
            )
        assert self._config is not None
        taken = sum(entry.region.size_bytes for entry in self._regions.values())
        if len(self._regions) >= REGIONS_MAX:
            raise ResourceExhausted(f"{REGIONS_MAX} regions are registered", hint="unregister some")
        if taken + region.size_bytes > self._config.max_bytes:
            raise ResourceExhausted(
                f"region {region.name!r} of {region.size_bytes} bytes with {taken} of others is"
                f" more than {format_size(self._config.max_bytes)}",
                hint="unregister some, or raise node.client_memory.max",
            )
        self._watch(region)
        self._regions[region.name] = _Registered(region, os.dup(fd))
        return True

    def _watch(self, region: ClientRegion) -> None:
        """Has a region end with its client.

        Raises:
            NotFound: that has ended already.
        """
        who = region.pid, region.started
        if region.pid and who not in self._owners:
            self._owners[who] = _Owner(who, self._ended)

    def _ended(self, who: _Who) -> None:
        self._owners.pop(who).close()
        names = [name for name, entry in self._regions.items() if entry.who == who]
        self._tasks.start(self._remove(names))

    async def _remove(self, names: Iterable[str]) -> None:
        orders = []
        for name in names:
            entry = self._regions.pop(name, None)
            if entry is not None:
                os.close(entry.fd)
                orders.append(RemoveRegion(name))
        for who in self._owners.keys() - {entry.who for entry in self._regions.values()}:
            self._owners.pop(who).close()
        await asyncio.gather(*(self._tell(order) for order in orders))

    async def _tell(self, order: Message, fds: tuple[int, ...] = ()) -> None:
        """Returns when all front-ends have followed; one that died meanwhile has nothing to do."""
        calls = (
            child.request(order, Ok, fds=fds, timeout_s=_ORDER_TIMEOUT_S)
            for child in self._frontends()
        )
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ChannelClosed):
                raise result
