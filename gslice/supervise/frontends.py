"""The front-end processes: one address, one or several processes behind it.

A front-end that dies loses its connections; its leases come back, and another takes its place on
the same port.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
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
from gslice.supervise.child import Child
from gslice.supervise.client_memory import ClientMemory
from gslice.supervise.frontend_launch import launch_of, offer_of, port_of, refuse_taken
from gslice.supervise.news import restarted
from gslice.supervise.renewal import LOG_NAME, ORDER_TIMEOUT_S, renew_frontends, retire
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


@dataclass
class Frontend:
    """One front-end process.

    Attributes:
        index: Its index in every segment's front-end table.
        child: The process.
        eventfd: Wakes it when answers are ready; owned here.
        state: `starting`, `serving`, `retiring` or `draining`.
        kind: What speaks gRPC in it, as it says: `python` or `native`.
        tls: Digest of its certificates, as it says; empty: its port is not encrypted.
        client_memory: Prefix of the clients' memory that it takes, as it says; empty: none.
        inherited: An earlier daemon started it.
        since_s: When it began to serve, or was adopted, on the monotonic clock.
    """

    index: int
    child: Child
    eventfd: int
    state: str = "starting"
    kind: str = "python"
    tls: str = ""
    client_memory: str = ""
    inherited: bool = False
    since_s: float = field(default_factory=time.monotonic)


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
        self.address = node.config.grpc
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
        self.memory = ClientMemory(node.config.client_memory, self, self._tasks, node.event)

    # ---- life ------------------------------------------------------------------------------

    def check_address(self, found: Iterable[FrontendState | None]) -> None:
        """Checks that front-ends can listen, before anything is changed.

        Args:
            found: Front-ends of an earlier daemon. One that has the port will give it up, should it
                not be adopted.

        Raises:
            Unavailable: somebody else listens there.
        """
        port = port_of(self.address)
        if port not in {port_of(state.address) for state in found if state is not None}:
            refuse_taken(self.address)

    async def start(self) -> None:
        """Starts those that are missing; returns when all accept calls.

        Raises:
            GsliceError: one cannot start or listen.
        """
        free = (i for i in range(MAX_FRONTENDS) if i not in self._frontends)
        missing = list(itertools.islice(free, self._node.config.frontends - len(self._serving)))
        if not self._frontends:
            refuse_taken(self.address)
        # Port 0: the first one finds a port, which the others then share.
        while missing and not self.known_address:
            await self.start_one(missing.pop(0))
        await run_all(self.start_one(index) for index in missing)
        if any(self._outdated(frontend) for frontend in self._serving):
            self._tasks.start(self._renew_outdated())

    async def adopt(self, child: Child, state: FrontendState) -> None:
        """Takes over a front-end that is serving, if it serves as the settings say now.

        One that is being replaced, or that is one too many, goes when its clients have left it.
        """
        config = self._node.config
        eventfds = child.take_fds()
        wanted = (
            state.state in ("serving", "retiring")
            and state.index not in self._frontends
            and (config.grpc.endswith(":0") or config.grpc == state.address)
        )
        if not wanted or len(eventfds) != 1:
            for fd in eventfds:
                os.close(fd)
            await child.stop(config.drain_timeout_us / 1e6)
            return
        frontend = _as_it_says(state, child, eventfds[0])
        frontend.state, frontend.inherited = state.state, True
        self.address = state.address
        self._enter(frontend)
        self.memory.introduce(frontend)
        self._node.event(LOG_NAME, EventKind.ADOPT, f"adopted front-end {frontend.index}")
        if state.state == "retiring" or len(self._serving) > config.frontends:
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

    @property
    def known_address(self) -> str:
        """Where clients reach them; empty until the first has found a free port."""
        return "" if self.address.endswith(":0") else self.address

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

    async def start_one(self, index: int) -> Frontend:
        """Starts one, tells it everything and has it listen.

        Raises:
            GsliceError: it cannot start or listen; nothing of it is left.
        """
        name = f"{SOCKET_PREFIX}{index}"
        launch = launch_of(self._node.config, index, self._node.log_path(LOG_NAME))
        child = await Child.start(self._node.run_dir, name, launch, self._on_call)
        try:
            (eventfd,) = child.take_fds()
            state = child.hello.frontend or FrontendState(index)
            frontend = _as_it_says(state, child, eventfd)
            self._enter(frontend)
            for listing in self._listings.values():
                for order, fds in listing.orders(with_segment=True):
                    child.send(order, fds)
            self.memory.introduce(frontend)
            serve = Serve(self.address, self._node.config.drain_timeout_us // 1000)
            serving = await child.request(serve, Serving, timeout_s=ORDER_TIMEOUT_S)
        except BaseException:
            await child.kill()
            raise
        frontend.state, frontend.since_s = "serving", time.monotonic()
        self.address = serving.address
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

    @property
    def _serving(self) -> list[Frontend]:
        return [f for f in self._frontends.values() if f.state == "serving"]

    def _outdated(self, frontend: Frontend) -> bool:
        """Whether one that is started now would have something else for clients."""
        has = frontend.kind, frontend.tls, frontend.client_memory
        return frontend.inherited and has != offer_of(self._node.config)

    async def _renew_outdated(self) -> None:
        """They serve on until others have taken over, which connections take their time for."""

        def record(_stage: str, detail: str) -> None:
            text = f"replacing front-ends, for node.frontend, tls or client_memory: {detail}"
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
        self._tasks.start(self._restart(frontend.index, frontend.since_s))

    async def _restart(self, index: int, since_s: float) -> None:
        """Tries until it works: without a front-end the node is of no use."""
        died_s = time.monotonic()
        served_us = round((died_s - since_s) * 1e6)
        while not self._closing:
            now_us = time.monotonic_ns() // 1000
            delay_us = self._breakers[index].death(now_us, served_us=served_us)
            served_us = 0
            await asyncio.sleep((_RESTARTS.max_delay_us if delay_us is None else delay_us) / 1e6)
            try:
                await self.start_one(index)
            except (GsliceError, OSError) as error:
                text = f"front-end {index} did not start: {error}"
                self._node.event(LOG_NAME, EventKind.FAILED, text)
            else:
                self._lost.discard(index)
                self.restarts += 1
                text = restarted(f"another front-end {index}", died_s)
                self._node.event(LOG_NAME, EventKind.RESTART, text)
                return


def _as_it_says(state: FrontendState, child: Child, eventfd: int) -> Frontend:
    """What clients notice of it is as it was started, whatever the settings are by now."""
    frontend = Frontend(state.index, child, eventfd, kind=state.kind, tls=state.tls)
    frontend.client_memory = state.client_memory
    return frontend
