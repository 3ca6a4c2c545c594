"""Follows node.yaml while the node serves: `gslice apply`, and `gslice serve --reload`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gslice.core.errors import FailedPrecondition, GsliceError, LoadFailed
from gslice.core.events import EventKind
from gslice.daemon.following import LATER, UPGRADE, Planned, plan_apply
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.recall import file_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.config import Config
    from gslice.daemon.daemon import Daemon
    from gslice.daemon.following import ApplyPlan
    from gslice.daemon.loads import Loads

_LOOK_PERIOD_S = 1.0


class Stage(Protocol):
    """Told of each stage as it begins, and which function it is about."""

    def __call__(self, name: str, detail: str, subject: str = "") -> None:
        """Takes one."""


@dataclass(frozen=True)
class ConfigSource:
    """Where the daemon's configuration comes from.

    Attributes:
        read: Reads it again, with what the command line and the environment say.
        watched: Changes of the file are followed without an order.
    """

    read: Callable[[], Config]
    watched: bool = False


class Applying:
    """Has the node follow its node.yaml.

    Args:
        daemon: The node's.
        loads: Loads functions.
        source: None: there is nothing that could have changed.

    Attributes:
        running: Something is being applied.
    """

    def __init__(self, daemon: Daemon, loads: Loads, source: ConfigSource | None) -> None:
        self.running = False
        self._daemon = daemon
        self._loads = loads
        self._source = source
        self._lock = asyncio.Lock()
        self._seen = self._look()

    async def plan(self) -> ApplyPlan:
        """How what runs differs from what the file says by now.

        Raises:
            ConfigError: the file is wrong; what runs is not touched by that.
            FailedPrecondition: there is no file, or the daemon starts or ends.
        """
        daemon = self._daemon
        if self._source is None:
            raise FailedPrecondition(
                "the node was started without a node.yaml, so there is nothing to apply",
                hint="write one with `gslice init` and start with it",
            )
        if daemon.state != "SERVING":
            raise FailedPrecondition(
                f"the daemon is {daemon.state}", hint="try again when it serves"
            )
        file = await asyncio.to_thread(self._source.read)
        return await plan_apply(file, daemon.desired, daemon.supervisor, daemon.versions)

    async def carry_out(self, digest: str, stage: Stage) -> None:
        """Makes the changes one after the other; where one fails, the others are made all the same.

        Args:
            digest: Of the plan that somebody agreed to; empty: whatever it is.
            stage: Told of each stage.

        Raises:
            FailedPrecondition: as `plan`, or the plan is another by now; nothing has changed.
            ConfigError: the file is wrong; nothing has changed.
            LoadFailed: not all changes could be made. What served before serves on.
        """
        async with self._lock:
            plan = await self.plan()
            if digest and digest != plan.digest:
                raise FailedPrecondition(
                    "node.yaml, or what runs, is not what it was when this was planned",
                    hint="look again: gslice apply --dry-run",
                )
            self._switch(running=True)
            try:
                await self._carry_out(plan, stage)
            finally:
                self._switch(running=False)

    async def watch(self) -> None:
        """Until cancelled: applies the file when it has changed, if that is wanted.

        It is looked at once a second: links that are turned to another directory, as Kubernetes
        does it, and network file systems tell nobody of a change.
        """
        if self._source is None or not self._source.watched:
            return
        before = self._seen
        while True:
            await asyncio.sleep(_LOOK_PERIOD_S)
            now = await asyncio.to_thread(self._look)  # a network file system may hang
            # Twice the same: whoever writes it has most likely ended.
            if now and now == before != self._seen and self._daemon.state == "SERVING":
                self._seen = now
                await self._reload()
            before = now

    async def _reload(self) -> None:
        self._daemon.audit.own("reload")
        try:
            await self.carry_out("", _unheard)
        except LoadFailed:
            return  # told already
        except GsliceError as error:
            what = "; ".join(error.message.splitlines())
            self._tell(EventKind.FAILED, f"node.yaml is not followed, all runs on: {what}")

    async def _carry_out(self, plan: ApplyPlan, stage: Stage) -> None:
        desired = self._daemon.desired
        desired.follow(plan.config)
        for function in self._daemon.supervisor.functions.values():
            function.source = desired.source(function.name)
        due = [change for change in plan.changes if change.how not in LATER]
        failed = [change.subject for change in due if not await self._try(change, stage)]
        for change in plan.changes:
            if change.how in LATER:
                waits = "`gslice upgrade`" if change.how == UPGRADE else "a stop and a start"
                self._tell(EventKind.CONFIG, f"{change.subject}: node.yaml waits for {waits}")
        outcome = f"{len(due) - len(failed)} of {len(due)} changes of node.yaml made"
        if failed:
            outcome += f"; not: {', '.join(failed)}"
        self._tell(EventKind.CONFIG, outcome if due else "node.yaml says nothing new")
        if failed:
            raise LoadFailed(outcome)
        stage("done", outcome)

    async def _try(self, change: Planned, stage: Stage) -> bool:
        """Makes a change; whether it could be made."""
        try:
            await self._make(change, stage)
        except GsliceError as error:
            reason = error.message.removeprefix(f"function {change.subject}: ")
            stage("failed", reason, change.subject)
            return False
        return True

    async def _make(self, change: Planned, stage: Stage) -> None:
        daemon, name = self._daemon, change.subject

        def about(passed: str, detail: str) -> None:
            stage(passed, detail, name)

        wanted = daemon.desired.functions.get(name)  # an order may have come since it was planned
        if wanted is not None:
            await self._loads.load(wanted, about)
        elif name in daemon.supervisor.functions:
            await self._loads.unload(name, about)
            daemon.node.event(name, EventKind.UNLOAD, "unloaded: node.yaml has it no more")
        stage("done", "", name)

    def _switch(self, *, running: bool) -> None:
        self.running = running
        self._daemon.node.changes.notify()

    def _look(self) -> tuple[int, ...]:
        """What the file system says of the file; empty: there is none just now."""
        path = self._daemon.desired.path
        if self._source is None or path is None:
            return ()
        try:
            return file_state(path)
        except OSError:
            return ()

    def _tell(self, kind: EventKind, text: str) -> None:
        self._daemon.node.event(DAEMON_LOG_NAME, kind, text)


def _unheard(name: str, detail: str, subject: str = "") -> None:
    """For a change that nobody ordered."""
