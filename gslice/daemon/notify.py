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
    from collections.abc import Mapping, Sequence

    from gslice.daemon.daemon import Daemon

_SOCKET, _WATCHDOG, _WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_WELL = ("READY", "COLD", "FINISHED")
_RETRY_S = 0.5
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
        self._untold: list[str] = []

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
                seen, lines = changes.version, [*self._untold]
                if reloading != daemon.applying.running:
                    reloading = daemon.applying.running
                    lines += _reloading() if reloading else ["READY=1"]
                if (status := status_line(daemon)) != told:
                    told = status
                    lines.append(f"STATUS={status}")
                self._tell(lines, self._ping())
                await changes.wait(seen, _RETRY_S if self._untold else self._period_s)
        finally:
            last = _reloading() if daemon.handover is not None else ["STOPPING=1"]
            self._tell([*self._untold, *last])

    def _ping(self) -> list[str]:
        """What proves that the loop turns, when it is time for it."""
        now_s = time.monotonic()
        if self._period_s is None or now_s < self._pinged_s + self._period_s / 2:
            return []
        self._pinged_s = now_s
        return ["WATCHDOG=1"]

    def _tell(self, lines: list[str], ping: Sequence[str] = ()) -> None:
        """What the manager has no room for just now is told again, in its order; a ping is not."""
        if not lines and not ping:
            return
        complained, self._untold = bool(self._untold), []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto("\n".join([*lines, *ping]).encode(), self._address)
        except OSError as error:
            self._untold = lines
            if lines and not complained:
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
