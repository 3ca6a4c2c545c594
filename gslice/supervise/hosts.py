"""Hosts: for each GPU under green contexts, the one process in which all of its functions are.

A host is started for the first function that needs one and ended after the last. Each function has
a worker of its own there, led as if it were a process; only their deaths are one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from typing import TYPE_CHECKING

from gslice.core.errors import ChannelClosed, Unavailable
from gslice.core.events import EventKind
from gslice.ipc.process import owner_of
from gslice.supervise.child import Child
from gslice.supervise.process import Launch, Process
from gslice.supervise.tasks import Tasks, run_all
from gslice.supervise.worker_launch import MODULE, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from gslice.ipc.channel import Received
    from gslice.supervise.node import Node

LOG_PREFIX = "host-"
SOCKET_PREFIX = "h-"
LODGER_PREFIX = "l-"
"""Of the sockets of those in a host: its process may live though nobody listens at one."""
EXIT_TIMEOUT_S = 30.0  # as of a worker on a GPU
_OPTION = "--host"


class Host:
    """A host that runs.

    Args:
        child: The process.
        device: The GPU's name.
        inherited: An earlier daemon started it, perhaps with other code.
    """

    def __init__(self, child: Child, device: str, *, inherited: bool = False) -> None:
        self.child = child
        self.device = device
        self.inherited = inherited
        self.lodgers: dict[Child, str] = {}  # with the names of their functions
        self.coming = 0
        self.ending = False

    @property
    def takes_more(self) -> bool:
        """Whether another function can go there."""
        return not self.ending and not self.child.closed

    @property
    def empty(self) -> bool:
        """Whether nobody is there, or on the way."""
        return not self.lodgers and not self.coming


class Hosts:
    """Those of a node.

    Args:
        node: The node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._hosts: list[Host] = []
        self._left: set[Host] = set()  # nobody goes there any more: of older code, or another user
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks = Tasks("hosts", node.event)

    def __iter__(self) -> Iterator[Host]:
        return iter(list(self._hosts))

    async def lodge(self, device: str, function: str, environment: Mapping[str, str]) -> Child:
        """Has an empty worker for a function in the host of a GPU.

        Args:
            device: The GPU's name.
            function: The function's.
            environment: What binds a host to it, if one must be started.

        Raises:
            GsliceError: it did not come up.
        """
        name, log = f"{LODGER_PREFIX}{secrets.token_hex(4)}", self._node.log_path(function)
        for _ in range(2):  # a host may be about to end when it is asked
            async with self._locks[device]:
                host = self._open(device) or await self._start(device, environment)
                host.coming += 1
            try:
                child = await Child.lodge(self._node.run_dir, name, host.child, log, _unheard)
            except ChannelClosed as error:
                reason = error.message
            else:
                self._add(host, child, function)
                return child
            finally:
                host.coming -= 1
                self._end_if_empty(host)
        raise Unavailable(f"the host of {device} ends again and again: {reason}")

    def adopt(self, child: Child, device: str, lodgers: Iterable[tuple[Child, str]]) -> None:
        """Takes over one that an earlier daemon started, with whom it found there."""
        host = self._watched(Host(child, device, inherited=True))
        if owner_of(child.process.pid) != self._node.uid_of(device):
            self._left.add(host)
        for lodger, function in lodgers:
            self._add(host, lodger, function)
        self._end_if_empty(host)

    def renew(self, device: str) -> None:
        """Whoever comes from now on goes to a host of the code on disk."""
        self._left.update(host for host in self._hosts if host.device == device and host.inherited)

    def log_of(self, device: str) -> Path:
        """What the host of a GPU prints, and says of its end."""
        return self._node.log_path(self._log_name(device))

    @property
    def log_names(self) -> list[str]:
        """The logs of all."""
        return sorted({self._log_name(host.device) for host in self._hosts})

    async def close(self) -> None:
        """Ends all in order, and waits for those that end already."""
        await run_all(self._stop(host) for host in self)

    def expect_end(self) -> None:
        """From now on the death of one is no accident."""
        for host in self:
            host.ending = True

    async def kill(self) -> None:
        """Ends all at once."""
        self.expect_end()
        await run_all(host.child.kill() for host in self)

    def leave(self) -> None:
        """Lets all run on, for the next daemon."""
        self.expect_end()
        for host in self:
            host.child.detach()

    # ---- parts -----------------------------------------------------------------------------

    def _log_name(self, device: str) -> str:
        return LOG_PREFIX + device.replace(":", "-").replace("/", "-")

    def _open(self, device: str) -> Host | None:
        there = (h for h in self._hosts if h.device == device and h.takes_more)
        return next((host for host in there if host not in self._left), None)

    async def _start(self, device: str, environment: Mapping[str, str]) -> Host:
        user = self._node.users.get(device)
        arguments = (*options(self._node, user), _OPTION, device)
        launch = Launch(MODULE, arguments, self.log_of(device), environment, user=user)
        name = f"{SOCKET_PREFIX}{secrets.token_hex(4)}"
        child = await Child.start(self._node.run_dir, name, launch, _unheard)
        return self._watched(Host(child, device))

    def _watched(self, host: Host) -> Host:
        self._hosts.append(host)
        host.child.closed_timeout_s = EXIT_TIMEOUT_S
        host.child.process.death.add_done_callback(lambda death: self._died(host, death.result()))
        return host

    def _add(self, host: Host, child: Child, function: str) -> None:
        host.lodgers[child] = function
        child.process.death.add_done_callback(lambda _: self._left_by(host, child))

    def _left_by(self, host: Host, child: Child) -> None:
        host.lodgers.pop(child, None)
        self._end_if_empty(host)

    def _died(self, host: Host, how: str) -> None:
        if host in self._hosts:
            self._hosts.remove(host)
        self._left.discard(host)
        if host.ending or not host.lodgers:
            return
        process = host.child.process
        assert isinstance(process, Process)
        # Who did nothing is innocent: kernels, and what Python does with a batch, are of one that
        # is under way.
        process.suspects = process.suspects or [
            lodger.process for lodger in host.lodgers if lodger.works
        ]
        names = _listed(host.lodgers.values())
        suspects = _listed(n for child, n in host.lodgers.items() if child.is_blamed)
        if (gpu := self._node.gpus.get(host.device)) is not None:
            gpu.clients.faults += 1
        self._node.event(
            host.device,
            EventKind.FAULT,
            f"its host, process {process.pid}, {how}: that reached every function there ({names});"
            f" they are started again, and the death counts for {suspects}",
        )

    def _end_if_empty(self, host: Host) -> None:
        if host.empty and not host.ending and host.child.process.alive:
            host.ending = True
            self._tasks.start(host.child.stop(EXIT_TIMEOUT_S))

    async def _stop(self, host: Host) -> None:
        if host.ending:
            if not await host.child.process.wait(EXIT_TIMEOUT_S):
                await host.child.kill()
        else:
            host.ending = True
            await host.child.stop(EXIT_TIMEOUT_S)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _unheard(child: Child, received: Received) -> None:
    """Neither hosts nor workers speak unasked; descriptors are closed by the channel."""
