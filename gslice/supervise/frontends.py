"""The front-end processes: an address for each protocol, one or several processes behind it.

A front-end that dies loses its connections; its leases come back, and another takes its place on
the same port.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from gslice._native import MAX_FRONTENDS
from gslice.control.breaker import SECOND_US, Breaker, RestartPolicy
from gslice.core.errors import ChannelClosed, DeadlineExceeded, GsliceError
from gslice.core.events import EventKind
from gslice.ipc.messages import (
    DrainFrontend,
    FrontendState,
    Ok,
    RemoveFunction,
    Serve,
    Serving,
)
from gslice.supervise.access import ORDER_TIMEOUT_S, AccessBook
from gslice.supervise.child import Child
from gslice.supervise.client_memory import ClientMemory
from gslice.supervise.doors import Door, door_name, doors_of
from gslice.supervise.frontend import Frontend
from gslice.supervise.frontend_launch import launch_of, offer_of, port_of, refuse_taken
from gslice.supervise.news import restarted
from gslice.supervise.renewal import LOG_NAME, renew_frontends, retire
from gslice.supervise.tasks import Tasks, run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gslice.ipc.channel import Received
    from gslice.ipc.messages import Message
    from gslice.supervise.listing import Listing
    from gslice.supervise.node import Node

SOCKET_PREFIX = "f-"
# Without it nobody is served, and a start costs half a second of processor time: it waits shortly.
_RESTARTS = RestartPolicy(max_delay_us=SECOND_US, settled_us=10 * SECOND_US)


class Frontends:
    """All front-ends of the node.

    Args:
        node: The node.
        on_call: Takes what a front-end asks of the daemon.
        on_up: Called with the index and eventfd of a front-end that will lease slots.
        on_down: Called with the index of one that died, after it can do nothing any more.
    """

    def __init__(
        self,
        node: Node,
        on_call: Callable[[Child, Received], None],
        on_up: Callable[[int, int], None],
        on_down: Callable[[int], None],
    ) -> None:
        self._doors = doors_of(node.config)
        self.restarts = 0
        self.renewing = asyncio.Lock()
        self._node = node
        self._on_call = on_call
        self._on_up = on_up
        self._on_down = on_down
        self._frontends: dict[int, Frontend] = {}
        self._lost: set[int] = set()  # indices of those that are started again
        self._listings: dict[str, Listing] = {}
        self._breakers: dict[int, Breaker] = defaultdict(lambda: Breaker(_RESTARTS))
        self._tasks = Tasks(LOG_NAME, node.event)
        self._closing = False
        self.access = AccessBook(node.config.access, node.event)
        self.memory = ClientMemory(
            node.config.client_memory,
            self,
            self._tasks,
            node.event,
            lambda tenant: self.access.now.knows(tenant),
        )

    # ---- life ------------------------------------------------------------------------------

    def check_address(self, found: Iterable[FrontendState | None]) -> None:
        """Checks that front-ends can listen, before anything is changed.

        Args:
            found: Front-ends of an earlier daemon. One that has the port will give it up, should it
                not be adopted.

        Raises:
            Unavailable: somebody else listens there.
        """
        ports = {port_of(state.address) for state in found if state is not None}
        for door in self._doors.values():
            if port_of(door.asked) not in ports:
                refuse_taken(door.asked)

    async def start(self) -> None:
        """Starts those that are missing; returns when all accept calls.

        Raises:
            GsliceError: one cannot start or listen.
        """
        free = (i for i in range(MAX_FRONTENDS) if i not in self._frontends)
        await run_all(
            self._open(door, list(itertools.islice(free, self._missing(door))))
            for door in self._doors.values()
        )
        if any(f.state == "serving" and self._outdated(f) for f in self.all()):
            self._tasks.start(self._renew_outdated())

    async def adopt(self, child: Child, state: FrontendState) -> None:
        """Takes over a front-end that is serving, if it serves as the settings say now.

        One that is being replaced, or that is one too many, goes when its clients have left it.
        """
        config = self._node.config
        door = self._doors.get(door_name(state.kind))
        eventfds = child.take_fds()
        wanted = (
            state.state in ("serving", "retiring")
            and state.index not in self._frontends
            and door is not None
            and door.takes(state.address)
            and self.access.knows(state)
        )
        if not wanted or door is None or len(eventfds) != 1:
            for fd in eventfds:
                os.close(fd)
            await child.stop(config.drain_timeout_us / 1e6)
            return
        frontend = Frontend.of(state, child, eventfds[0])
        frontend.state, frontend.inherited = state.state, True
        door.address = state.address
        self._enter(frontend)
        try:
            await self.access.introduce(frontend)
        except GsliceError as error:  # another takes its place
            text = f"front-end {frontend.index} is killed: it cannot ask callers: {error}"
            self._node.event(LOG_NAME, EventKind.KILL, text)
            await child.kill()
            return
        self._tasks.start(self.memory.introduce(frontend))
        self._node.event(LOG_NAME, EventKind.ADOPT, f"adopted front-end {frontend.index}")
        if state.state == "retiring" or self._missing(door) < 0:
            self._tasks.start(retire(self._node, self, frontend))

    async def drain(self, timeout_s: float) -> None:
        """Has all report not ready, accept nothing new and finish the calls in flight."""
        self._closing = True
        await self._tasks.cancel()
        for frontend in self._frontends.values():
            frontend.state = "draining"
        order = DrainFrontend(timeout_ms=round(timeout_s * 1000))
        frontends = self._frontends.values()
        await asyncio.gather(*(self.obey(f.child, order, (), timeout_s + 1.0) for f in frontends))

    async def stop(self, timeout_s: float) -> None:
        """Ends all."""
        self._closing = True
        await asyncio.gather(*(f.child.stop(timeout_s) for f in list(self._frontends.values())))
        self._listings.clear()
        self.memory.close()

    async def kill(self) -> None:
        """Ends all at once."""
        self._closing = True
        await self._tasks.cancel()
        await asyncio.gather(*(f.child.kill() for f in self.all()))

    async def leave(self) -> None:
        """Lets all run on, for the next daemon."""
        self._closing = True
        await self._tasks.cancel()
        for frontend in self.all():
            frontend.child.detach()
        self.memory.close()

    # ---- what they know ----------------------------------------------------------------------

    def address(self, door: str) -> str:
        """Where clients reach them; empty: there is no such door, or it has no port yet."""
        return self._doors[door].address if door in self._doors else ""

    async def show(self, listing: Listing) -> None:
        """Makes a function's state known to all; returns when they go by it."""
        name = listing.spec.name
        before = self._listings.get(name)
        self._listings[name] = listing
        moved = before is None or before.segment is not listing.segment
        await self.tell(listing.orders(with_segment=moved))

    async def forget(self, *names: str) -> None:
        """Has all forget functions; returns when they have."""
        for name in names:
            self._listings.pop(name, None)
        await self.tell([(RemoveFunction(name), ()) for name in names])

    def eventfds(self) -> dict[int, int]:
        """Descriptors that wake the front-ends, by index."""
        return {f.index: f.eventfd for f in self._frontends.values()}

    def wake(self, indices: Iterable[int]) -> None:
        """Wakes front-ends for which answers are ready."""
        for index in indices:
            frontend = self._frontends.get(index)
            if frontend is not None:
                os.eventfd_write(frontend.eventfd, 1)

    def all(self) -> list[Frontend]:
        """Those that run, by index."""
        return sorted(self._frontends.values(), key=lambda frontend: frontend.index)

    def free_index(self) -> int | None:
        """An index that no front-end has, nor will have again."""
        taken = self._frontends.keys() | self._lost
        return next((i for i in range(MAX_FRONTENDS) if i not in taken), None)

    async def start_one(self, door: str, index: int) -> Frontend:
        """Starts one, tells it everything and has it listen.

        Args:
            door: The name of the one that it serves.
            index: Its place in front-end tables.

        Raises:
            GsliceError: it cannot start or listen; nothing of it is left.
        """
        name = f"{SOCKET_PREFIX}{index}"
        serves, config = self._doors[door], self._node.config
        launch = launch_of(config, serves.kind(config), index, self._node.log_path(LOG_NAME))
        child = await Child.start(self._node.run_dir, name, launch, self._on_call)
        try:
            (eventfd,) = child.take_fds()
            state = child.hello.frontend or FrontendState(index)
            frontend = Frontend.of(state, child, eventfd)
            self._enter(frontend)
            await self.access.introduce(frontend)
            for listing in self._listings.values():
                for order, fds in listing.orders(with_segment=True):
                    child.send(order, fds)
            await self.memory.introduce(frontend)
            serve = Serve(serves.address or serves.asked, config.drain_timeout_us // 1000)
            serving = await child.request(serve, Serving, timeout_s=ORDER_TIMEOUT_S)
        except BaseException:
            await child.kill()
            raise
        frontend.state, frontend.since_s = "serving", time.monotonic()
        serves.address = serving.address
        self._node.changes.notify()
        return frontend

    async def tell(
        self,
        orders: Sequence[tuple[Message, tuple[int, ...]]],
        *,
        to: Sequence[Frontend] | None = None,
        may_refuse: bool = False,
    ) -> None:
        """Sends orders, in their order, and waits until all have followed; see `obey`.

        Args:
            orders: Each with its descriptors.
            to: Whom; None: all.
            may_refuse: Whether a refusal is raised.
        """
        await run_all(
            self.obey(frontend.child, order, fds, may_refuse=may_refuse)
            for order, fds in orders
            for frontend in (self.all() if to is None else to)
        )

    async def obey(
        self,
        child: Child,
        order: Message,
        fds: tuple[int, ...] = (),
        timeout_s: float = ORDER_TIMEOUT_S,
        *,
        may_refuse: bool = False,
    ) -> None:
        """Has a front-end follow an order, and waits for it.

        One that dies over it, hangs or refuses is started again with everything that it must know.

        Raises:
            GsliceError: it refuses, as it may.
        """
        try:
            await child.request(order, Ok, fds=fds, timeout_s=timeout_s)
        except ChannelClosed:
            return
        except GsliceError as error:
            if may_refuse and not isinstance(error, DeadlineExceeded):
                raise
            index = child.name.removeprefix(SOCKET_PREFIX)
            text = f"front-end {index} is killed, for {type(order).__name__}: {error}"
            self._node.event(LOG_NAME, EventKind.KILL, text)
            child.abort()

    # ---- parts -----------------------------------------------------------------------------

    def _missing(self, door: Door) -> int:
        """How many more are to serve a door; less than 0: so many are too many."""
        serving = [f for f in self._frontends.values() if f.state == "serving"]
        return door.wanted - sum(frontend.door == door.name for frontend in serving)

    async def _open(self, door: Door, missing: list[int]) -> None:
        """Starts those that a door lacks, under these indices."""
        if missing and not any(f.door == door.name for f in self._frontends.values()):
            refuse_taken(door.asked)
        # Port 0: the first one finds a port, which the others then share.
        while missing and not door.address:
            await self.start_one(door.name, missing.pop(0))
        await run_all(self.start_one(door.name, index) for index in missing)

    def _outdated(self, frontend: Frontend) -> bool:
        """Whether one that is started now would have something else for clients."""
        config = self._node.config
        has = (
            frontend.kind,
            frontend.tls,
            frontend.client_memory,
            frontend.telemetry,
            frontend.page,
        )
        kind = self._doors[frontend.door].kind(config)
        return frontend.inherited and has != (kind, *offer_of(config, kind))

    async def _renew_outdated(self) -> None:
        """They serve on until others have taken over, which connections take their time for."""

        def record(_stage: str, detail: str) -> None:
            text = f"replacing front-ends, for settings that changed: {detail}"
            self._node.event(LOG_NAME, EventKind.RESTART, text)

        try:
            await renew_frontends(self._node, self, record, self._outdated)
        except GsliceError as error:
            text = f"front-ends serve on as an earlier daemon started them: {error}"
            self._node.event(LOG_NAME, EventKind.FAILED, text)

    def _enter(self, frontend: Frontend) -> None:
        self._frontends[frontend.index] = frontend
        self._on_up(frontend.index, frontend.eventfd)
        frontend.child.process.death.add_done_callback(
            lambda death: self._died(frontend, death.result())
        )

    def _died(self, frontend: Frontend, how: str) -> None:
        del self._frontends[frontend.index]
        os.close(frontend.eventfd)
        self._on_down(frontend.index)
        self.access.died(frontend.index)
        self._node.changes.notify()
        # One that never served fails its start, which says why.
        if self._closing or frontend.state == "starting":
            return
        if frontend.state == "retiring":
            if how.startswith("killed"):
                text = f"front-end {frontend.index} {how}, with the clients that it still had"
                self._node.event(LOG_NAME, EventKind.CRASH, text)
            return
        text = f"front-end {frontend.index} {how}; starting another"
        self._node.event(LOG_NAME, EventKind.CRASH, text)
        self._lost.add(frontend.index)
        self._tasks.start(self._restart(frontend))

    async def _restart(self, dead: Frontend) -> None:
        """Tries until it works: without a front-end the node is of no use."""
        died_s, index = time.monotonic(), dead.index
        served_us = round((died_s - dead.since_s) * 1e6)
        while not self._closing:
            now_us = time.monotonic_ns() // 1000
            delay_us = self._breakers[index].death(now_us, served_us=served_us)
            served_us = 0
            await asyncio.sleep((_RESTARTS.max_delay_us if delay_us is None else delay_us) / 1e6)
            try:
                await self.start_one(dead.door, index)
            except (GsliceError, OSError) as error:
                text = f"front-end {index} did not start: {error}"
                self._node.event(LOG_NAME, EventKind.FAILED, text)
            else:
                self._lost.discard(index)
                self.restarts += 1
                text = restarted(f"another front-end {index}", died_s)
                self._node.event(LOG_NAME, EventKind.RESTART, text)
                return
