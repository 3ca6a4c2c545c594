"""Clients' memory that requests may name: all front-ends know the same regions.

A client registers at whichever front-end its connection reached; its requests may reach another.
So the daemon opens the file, hands it to every front-end, those started later included, and answers
when all have it. Each is its tenant's, and none can tell what others have. Front-ends tell a daemon
that adopts them what they have. Those that an earlier daemon started without clients' memory are
left out: no request of theirs may name any.
"""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import (
    AlreadyExists,
    GsliceError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from gslice.core.events import EventKind
from gslice.core.units import format_size
from gslice.ipc.messages import AddRegion, ClientRegion, RemoveRegion
from gslice.ipc.process import start_ticks
from gslice.supervise.client_file import check_region, open_region, refusing, without_secrets
from gslice.supervise.renewal import LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gslice.core.config import ClientMemoryConfig
    from gslice.core.events import Record
    from gslice.supervise.child import Child
    from gslice.supervise.frontend import Frontend
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.tasks import Tasks

REGIONS_MAX = 256
"""Each takes a descriptor, here and in front-ends."""
_Who = tuple[int, int]
"""A process: its id and its start time."""
_Id = tuple[str, str]
"""Of a region: its tenant and its name."""


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
        frontends: Those that are told.
        tasks: Where it goes on in the background.
        event: Records which regions of an earlier daemon end.
        knows: Whether there is a tenant of that name; empty: those who have none.
    """

    def __init__(
        self,
        config: ClientMemoryConfig | None,
        frontends: Frontends,
        tasks: Tasks,
        event: Record,
        knows: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._frontends = frontends
        self._tasks = tasks
        self._event = event
        self._knows = knows
        self._regions: dict[_Id, _Registered] = {}
        self._owners: dict[_Who, _Owner] = {}
        self._not_kept: set[_Id] = set()

    # ---- what clients ask for ----------------------------------------------------------------

    async def register(self, asked: ClientRegion) -> None:
        """Lets requests name a region; returns when those at every front-end may.

        Raises:
            Unimplemented: it is not offered.
            AlreadyExists: another region of the tenant has the name.
            ResourceExhausted: there are too many, or too large ones.
            GsliceError: its file cannot be used: see `open_region`.
        """
        config = self._offered()
        region, fd = open_region(asked, config)
        try:
            is_new = self._enter(region, fd, config)
            try:
                order = AddRegion(region), (fd,)
                await self._frontends.tell([order], to=self._takers, may_refuse=True)
            except GsliceError:
                if is_new:
                    await self._remove([region.id])
                raise
        finally:
            os.close(fd)

    async def unregister(self, name: str, tenant: str) -> None:
        """Takes a tenant's region from all front-ends; an unknown name is no error.

        Args:
            name: The region; empty: all but those of gslice's own clients, who look after theirs.
            tenant: Whose callers ask.
        """
        regions = [entry.region for entry in self._regions.values()]
        own = [region for region in regions if region.tenant == tenant]
        await self._remove([r.id for r in own if (r.name == name if name else not r.pid)])

    # ---- what front-ends have -----------------------------------------------------------------

    def keep(self, child: Child, region: ClientRegion, fd: int) -> None:
        """A front-end of an earlier daemon has a region; one that may not be registered now ends.

        Args:
            child: The front-end.
            region: As it has it.
            fd: Of its file; owned here from now on.
        """
        try:
            if region.id in self._regions:
                return
            config = self._offered()
            if not self._knows(region.tenant):  # nobody could list or unregister it
                raise NotFound(f"region {region.name!r}: there is no tenant {region.tenant!r} now")
            check_region(region, fd, config)
            self._enter(region, fd, config)
            for frontend in self._takers:
                if frontend.child is not child:
                    self._tasks.start(self._hand(region.id, frontend))
        except GsliceError as error:  # the client's next request finds no such region
            self._record_end(region.id, error)
            self._tasks.start(self._frontends.obey(child, _removal(region.id)))
        finally:
            os.close(fd)

    async def introduce(self, frontend: Frontend) -> None:
        """Has a front-end take all regions; returns when it has."""
        if frontend.client_memory:
            for each in list(self._regions):
                await self._hand(each, frontend)

    def close(self) -> None:
        """Forgets all; front-ends keep what they have."""
        for owner in self._owners.values():
            owner.close()
        self._owners.clear()
        for entry in self._regions.values():
            os.close(entry.fd)
        self._regions.clear()

    @property
    def sizes_bytes(self) -> list[int]:
        """Of all regions; safe to ask from another thread."""
        return [entry.region.size_bytes for entry in list(self._regions.values())]

    # ---- parts -----------------------------------------------------------------------------

    @property
    def _takers(self) -> list[Frontend]:
        """Front-ends that were started for it."""
        return [frontend for frontend in self._frontends.all() if frontend.client_memory]

    def _offered(self) -> ClientMemoryConfig:
        if self._config is None:
            raise Unimplemented(
                "clients' system shared memory is not offered",
                hint="send tensors raw, or set node.client_memory",
            )
        return self._config

    def _enter(self, region: ClientRegion, fd: int, config: ClientMemoryConfig) -> bool:
        """Whether it was not known."""
        known = self._regions.get(region.id)
        if known is not None:
            if known.region == region and os.path.sameopenfile(known.fd, fd):
                return False
            raise AlreadyExists(
                f"region {region.name!r} is registered with another range or key,"
                f" {known.region.key!r}",
                hint="unregister it first",
            )
        taken = sum(entry.region.size_bytes for entry in self._regions.values())
        if len(self._regions) >= REGIONS_MAX:
            raise ResourceExhausted(f"{REGIONS_MAX} regions are registered", hint="unregister some")
        if taken + region.size_bytes > config.max_bytes:
            raise ResourceExhausted(
                f"region {region.name!r} of {region.size_bytes} bytes with {taken} of others is"
                f" more than {format_size(config.max_bytes)}",
                hint="unregister some, or raise node.client_memory.max",
            )
        with refusing(region):
            if self._is_of_others(region.tenant, fd):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            own_fd = os.dup(fd)
        try:
            self._watch(region)
        except BaseException:
            os.close(own_fd)
            raise
        self._regions[region.id] = _Registered(region, own_fd)
        return True

    def _is_of_others(self, tenant: str, fd: int) -> bool:
        """Whether a file is another tenant's memory: whoever guesses its name gains nothing."""
        others = (entry.fd for entry in self._regions.values() if entry.region.tenant != tenant)
        return any(os.path.sameopenfile(other, fd) for other in others)

    async def _hand(self, which: _Id, frontend: Frontend) -> None:
        """Has one more front-end take a region; one that it cannot take ends: all know the same."""
        entry = self._regions.get(which)
        if entry is None:  # unregistered meanwhile
            return
        try:
            order = AddRegion(entry.region)
            await self._frontends.obey(frontend.child, order, (entry.fd,), may_refuse=True)
        except GsliceError as error:  # the client's next request finds no such region
            if self._regions.get(which) is entry:
                self._record_end(which, error)
                await self._remove([which])

    def _record_end(self, which: _Id, reason: GsliceError) -> None:
        """Once, though each front-end tells of the region."""
        if which not in self._not_kept:
            self._not_kept.add(which)
            text = without_secrets(f"a client's region is not kept: {reason}")
            self._event(LOG_NAME, EventKind.ADOPT, text)

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
        ended = [each for each, entry in self._regions.items() if entry.who == who]
        self._tasks.start(self._remove(ended))

    async def _remove(self, ids: Iterable[_Id]) -> None:
        gone = [(each, self._regions.pop(each)) for each in ids if each in self._regions]
        for _, entry in gone:
            os.close(entry.fd)
        for who in self._owners.keys() - {entry.who for entry in self._regions.values()}:
            self._owners.pop(who).close()
        orders = [(_removal(each), ()) for each, _ in gone]
        await self._frontends.tell(orders, to=self._takers)


def _removal(which: _Id) -> RemoveRegion:
    tenant, name = which
    return RemoveRegion(name, tenant)
