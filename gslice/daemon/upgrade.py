"""An upgrade: check, handover, adopt, frontend, worker, done. Two daemons do it, in turn.

Until the handover nothing has changed. After it the new code goes on with the list of stages that
the old one began.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gslice import __version__
from gslice.core.errors import FailedPrecondition, GsliceError
from gslice.core.events import EventKind
from gslice.core.figures import milliseconds
from gslice.daemon.successor import check_command
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.node import Changes
from gslice.supervise.renewal import renew_frontends, renew_workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from gslice.supervise.supervisor import Supervisor

HANDOVER = "handover"
ENDS = ("done", "failed")


@dataclass(frozen=True)
class Passed:
    """A stage that began.

    Attributes:
        name: `check`, `handover`, `adopt`, `frontend`, `worker`, `done` or `failed`.
        detail: About it.
        elapsed_ms: Since the upgrade was ordered.
    """

    name: str
    detail: str
    elapsed_ms: float


class Upgrade:
    """The newest upgrade, and its stages for whoever follows it.

    Args:
        supervisor: What runs.
        command: What started this process; empty: nothing that could be run again.
    """

    def __init__(self, supervisor: Supervisor, command: Sequence[str]) -> None:
        self._supervisor = supervisor
        self._node = supervisor.node
        self._command = command
        self._begun_s = 0.0
        self._workers = False
        self._passed: list[Passed] = []
        self._changes = Changes()

    @property
    def running(self) -> bool:
        """It has begun and not ended."""
        return bool(self._passed) and self._passed[-1].name not in ENDS

    def begin(self, state: str, *, workers: bool = False) -> None:
        """Forgets an earlier one.

        Args:
            state: Of the daemon.
            workers: They are to be replaced, too.

        Raises:
            FailedPrecondition: one is under way, or none is possible.
        """
        if not self._command:
            raise FailedPrecondition(
                "no command that could be run again started this daemon",
                hint="only `gslice serve` and `python -m gslice.daemon` can be upgraded",
            )
        if state != "SERVING":
            raise FailedPrecondition(f"the daemon is {state}", hint="try again when it serves")
        if self.running:
            raise FailedPrecondition("an upgrade is under way", hint="follow it: gslice events -f")
        self._begun_s = time.monotonic()  # of the machine: it goes on in the next daemon
        self._workers = workers
        self._passed = []
        self._stage("check")

    async def prepare(self) -> bool:
        """Checks that the code on disk can take over.

        Returns:
            True: this daemon is to hand over to it, at once. False: it failed, nothing has changed.
        """
        try:
            new = await check_command(self._command, self._node.config.state_dir)
            self._supervisor.check_settled()
        except GsliceError as error:
            self._stage("failed", str(error))
            return False
        except asyncio.CancelledError:
            self._stage("failed", "the daemon is stopping")
            raise
        except Exception as error:
            self._stage("failed", f"{type(error).__name__}: {error}")
            raise
        self._stage(HANDOVER, f"from gslice {__version__} to {new.version}")
        return True

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on with what an earlier daemon began, as it gave it by `to_json`."""
        self._begun_s = state["begun_s"]
        self._workers = state.get("workers", False)
        self._passed = [Passed(**passed) for passed in state["passed"]]
        self._stage("adopt")

    async def finish(self) -> None:
        """Replaces what this daemon has adopted: front-ends, and workers where that was ordered."""
        try:
            kept = await self._renew()
        except asyncio.CancelledError:
            self._stage("failed", "the daemon is stopping; not all that it runs is new")
            raise
        except Exception as error:
            text = f"the daemon is new, not all that it runs: {type(error).__name__}: {error}"
            self._stage("failed", text)
            raise
        if kept:
            self._stage("failed", "; ".join(["the daemon is new", *kept]))
        else:
            self._stage("done", f"gslice {__version__}, pid {os.getpid()}")

    async def _renew(self) -> list[str]:
        """Returns what is not new, and why; it serves on."""
        supervisor, kept = self._supervisor, []
        try:
            await renew_frontends(self._node, supervisor.frontends, self._stage)
        except GsliceError as error:
            kept.append(f"a front-end is not: {error}")
        if self._workers:
            functions = list(supervisor.functions.values())
            kept += await renew_workers(self._node, functions, self._stage)
        return kept

    def _stage(self, name: str, detail: str = "") -> None:
        passed = Passed(name, detail, (time.monotonic() - self._begun_s) * 1000)
        self._passed.append(passed)
        text = f"{name} after {milliseconds(passed.elapsed_ms * 1000)}"
        kind = EventKind.FAILED if name == "failed" else EventKind.UPGRADE
        self._node.event(DAEMON_LOG_NAME, kind, f"{text}: {detail}" if detail else text)
        self._changes.notify()

    async def follow(self) -> AsyncIterator[Passed]:
        """The stages from the first on, until it ends or goes on in another daemon."""
        told = 0
        while self._passed:
            seen = self._changes.version
            for passed in self._passed[told:]:
                told += 1
                yield passed
                if passed.name in (*ENDS, HANDOVER) and told == len(self._passed):
                    return
            await self._changes.wait(seen)

    def to_json(self) -> dict[str, Any]:
        """For `resume` of the next daemon."""
        passed = [asdict(passed) for passed in self._passed]
        return {"begun_s": self._begun_s, "workers": self._workers, "passed": passed}
