"""Tells a service manager how the daemon is: sd_notify, which is a datagram of a few lines.

The daemon alone speaks to it: what it starts does not find the socket.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.daemon.daemon import Daemon

_SOCKET, _WATCHDOG, _WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_WELL = ("READY", "COLD", "FINISHED")
_log = logging.getLogger("gslice")


class Notifier:
    """Tells the service manager, if there is one.

    Args:
        environment: What the manager gave this process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        address = self._environment.get(_SOCKET, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watched = self._environment.get(_WATCHED, str(os.getpid())) == str(os.getpid())
        watchdog_us = int(self._environment.get(_WATCHDOG, 0)) if watched else 0
        self._period_s = watchdog_us / 2e6 if watchdog_us else None  # half of its patience
        self._pinged_s = 0.0

    @classmethod
    def receive(cls) -> Notifier:
        """Takes what is meant for the daemon out of the environment, which children inherit."""
        names = (_SOCKET, _WATCHDOG, _WATCHED)
        return cls({name: os.environ.pop(name) for name in names if name in os.environ})

    def hand_over(self) -> None:
        """Puts it back for the code that is about to run in place of this, in the same process."""
        os.environ.update(self._environment)

    async def follow(self, daemon: Daemon) -> None:
        """Until cancelled, which a stop and a handover begin with: tells how the daemon is.

        Args:
            daemon: It accepts requests.
        """
        if not self._address:
            return
        changes, told, reloading = daemon.node.changes, "", True
        try:
            while True:
                seen, lines = changes.version, []
                if reloading != daemon.applying.running:
                    reloading = daemon.applying.running
                    lines = _reloading() if reloading else ["READY=1"]
                if (status := status_line(daemon)) != told:
                    told = status
                    lines.append(f"STATUS={status}")
                self._tell([*lines, *self._ping()])
                await changes.wait(seen, self._period_s)
        finally:
            self._tell(_reloading() if daemon.handover is not None else ["STOPPING=1"])

    def _ping(self) -> list[str]:
        """What proves that the loop turns, when it is time for it."""
        now_s = time.monotonic()
        if self._period_s is None or now_s < self._pinged_s + self._period_s / 2:
            return []
        self._pinged_s = now_s
        return ["WATCHDOG=1"]

    def _tell(self, lines: list[str]) -> None:
        if not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("the service manager was not told %s: %s", lines[0], error)


def status_line(daemon: Daemon) -> str:
    """How many functions serve, and which have failed."""
    functions = daemon.supervisor.functions.values()
    serving = sum(function.state in _WELL for function in functions)
    failed = [function.name for function in functions if function.state == "FAILED"]
    line = f"{serving} of {len(functions)} functions serve"
    return f"{line}; failed: {', '.join(failed)}" if failed else line


def _reloading() -> list[str]:
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return ["RELOADING=1", f"MONOTONIC_USEC={now_us}"]
