"""Clients' memory that requests may name, as this front-end knows it from the daemon."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from gslice.core.errors import NotFound, Unimplemented
from gslice.ipc.messages import ClientRegion, RegisterMemory, UnregisterMemory

if TYPE_CHECKING:
    from gslice import _native


class Regions:
    """See the module. Iterates over the regions and their descriptors.

    Args:
        native: The data path, which uses them.
        ask: Passes what a client says on to the daemon, and returns when it is done.
        offered: Whether there can be any.
    """

    def __init__(
        self,
        native: _native.Frontend | _native.GrpcServer,
        ask: Callable[[RegisterMemory | UnregisterMemory], Awaitable[None]],
        *,
        offered: bool,
    ) -> None:
        self._native = native
        self._ask = ask
        self._known: dict[tuple[str, str], tuple[ClientRegion, int]] = {}
        self.offered = offered
        if offered:
            native.offer_client_memory()

    def __iter__(self) -> Iterator[tuple[ClientRegion, int]]:
        return iter(list(self._known.values()))

    # ---- what clients ask for ----

    async def register(self, region: ClientRegion) -> None:
        """Has the daemon offer a region to all front-ends.

        Raises:
            Unimplemented: There can be none.
            GsliceError: The daemon's answer, or that it is away.
        """
        if not self.offered:
            raise Unimplemented(
                "clients' system shared memory is not offered",
                hint="send tensors raw, or set node.client_memory",
            )
        await self._ask(RegisterMemory(region))

    async def unregister(self, name: str, tenant: str) -> None:
        """Has the daemon take a tenant's region from all front-ends.

        Args:
            name: The region's; empty: all that are in /dev/shm.
            tenant: Whose callers ask.
        """
        if self.offered:  # one that is asked for may still be on its way here
            await self._ask(UnregisterMemory(name, tenant))

    def shown(self, name: str, tenant: str) -> list[ClientRegion]:
        """What a tenant's callers see.

        Args:
            name: One region; empty: all but those of gslice's own clients, whose names are their
                keys.
            tenant: Whose callers ask.

        Raises:
            NotFound: None of theirs has that name.
        """
        if not name:
            own = (region for region, _ in self if region.tenant == tenant)
            return [region for region in own if not region.pid]
        if (tenant, name) not in self._known:
            raise NotFound(f"no shared memory region is called {name!r}", hint="register it")
        return [self._known[tenant, name][0]]

    # ---- what the daemon orders ----

    def add(self, region: ClientRegion, fd: int) -> None:
        """Takes a region and its descriptor; replaces the tenant's of the same name.

        Raises:
            GsliceError: It cannot be used.
        """
        known = self._known.get(region.id)
        try:
            if known is not None and known[0] == region and os.path.sameopenfile(known[1], fd):
                os.close(fd)  # an adopting daemon tells what it was told
                return
            place = region.offset_bytes, region.size_bytes
            self._native.add_region(region.name, fd, *place, region.tenant)
        except BaseException:
            os.close(fd)
            raise
        if known is not None:
            os.close(known[1])
        self._known[region.id] = region, fd

    def remove(self, name: str, tenant: str) -> None:
        """Forgets a tenant's region; requests in flight still use it."""
        known = self._known.pop((tenant, name), None)
        if known is not None:
            self._native.remove_region(name, tenant)
            os.close(known[1])
