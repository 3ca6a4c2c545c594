"""What follows the death of a function's workers: others in their place, or the end of trying."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice.control.breaker import Breaker
from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.supervise.logs import last_lines, shortened
from gslice.supervise.news import restarted
from gslice.supervise.tasks import Tasks

if TYPE_CHECKING:
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

LAST_LINES = 5
LINE_MAX_CHARS = 180


class Restarts:
    """Replaces workers of one function.

    Args:
        node: The node.
        function: Whose they are.

    Attributes:
        count: Workers started in place of dead ones.
        tasks: The restarts that go on.
    """

    def __init__(self, node: Node, function: Function) -> None:
        self.count = 0
        # One for each device: what ends all on one says nothing of another.
        self._breakers: dict[str, Breaker] = {}
        self._given_up: set[str] = set()
        self.tasks = Tasks(function.name, node.event)
        self._node = node
        self._function = function

    def reset(self) -> None:
        """Forgets all deaths."""
        self._breakers.clear()
        self._given_up.clear()

    async def cancel(self) -> None:
        """Starts no more."""
        await self.tasks.cancel()

    def replace_missing(self, deployment: Deployment, how: str) -> None:
        """Starts workers in place of those that died before anybody watched."""
        for device in deployment.missing:
            self.worker_lost(deployment, device, how)

    def worker_lost(
        self,
        deployment: Deployment,
        device: str,
        how: str,
        blamed: bool = True,
        died_s: float | None = None,
    ) -> None:
        """A worker died; its requests wait in the queue already.

        Args:
            deployment: Its.
            device: Likewise.
            how: In words.
            blamed: False: it died of what another function did, which is no crash loop of ours.
            died_s: When, on the monotonic clock; None: nobody saw it.
        """
        function = self._function
        if deployment is not function.deployment or not function.accepting:
            return
        if device not in deployment.spec.placed:
            return  # it was warm, and about to become a replica, or was one that leaves
        delay_us = self._death(deployment, device) if blamed else 0
        if not deployment.ready:
            # Front-ends go on accepting: what comes waits in the queue for the new worker.
            function.set_state("LOADING", f"its worker {how}; starting another")
        self.tasks.start(self._restart(deployment, device, how, delay_us, died_s))

    async def give_up(self, deployment: Deployment, device: str, how: str) -> None:
        """Its workers keep dying on a device; what is left of them serves on."""
        function = self._function
        log = last_lines(self._node.log_path(function.name), LAST_LINES)
        lines = " | ".join(shortened(line, LINE_MAX_CHARS) for line in log)
        reason = f"workers keep dying, the last one {how}" + (f": {lines}" if lines else "")
        self._node.event(function.name, EventKind.FAILED, f"given up: {reason}")
        self._given_up.add(device)
        if not deployment.ready and not self._given_up.issuperset(deployment.spec.placed):
            return  # on another device it is still tried
        if not deployment.ready:
            # Others may be on their way; they would serve what has been given up.
            await self.cancel()
        if count := deployment.ready:
            wanted = deployment.wanted
            function.set_state("READY", f"{count} of {wanted} instances: {reason}")
        else:
            await function.lost_for_good(reason)

    async def _restart(
        self,
        deployment: Deployment,
        device: str,
        how: str,
        delay_us: int | None,
        died_s: float | None,
    ) -> None:
        function = self._function
        while delay_us is not None:
            await asyncio.sleep(delay_us / 1e6)
            if device not in deployment.spec.placed:
                return  # the replica is elsewhere by now
            try:
                await deployment.replace(device)
            except GsliceError as error:
                how = error.message
            except OSError as error:  # the node is short of something, which may pass
                how = f"could not be started: {error}"
            else:
                self.count += 1
                text = restarted("another worker", died_s)
                self._node.event(function.name, EventKind.RESTART, text)
                function.restarted()
                return
            self._node.event(function.name, EventKind.FAILED, f"not restarted: {how}")
            delay_us = self._death(deployment, device)
        await self.give_up(deployment, device, how)

    def gives_up(self, deployment: Deployment) -> bool:
        """Counts a load that failed like a death; True: there were too many."""
        return self._death(deployment, deployment.spec.device) is None

    def _death(self, deployment: Deployment, device: str) -> int | None:
        breaker = self._breakers.setdefault(device, Breaker())
        return breaker.death(time.monotonic_ns() // 1000, deployment.spec.instances)
