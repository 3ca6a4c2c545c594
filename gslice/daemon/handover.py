"""What one daemon hands to the next when it replaces itself in place: same process, other code.

The process stays, so its children remain its children, and whoever waits for its id notices
nothing. The lock is held throughout, and the ports listen: who connects meanwhile waits.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from gslice.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "GSLICE_HANDOVER"
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass
class Handover:
    """What is handed over; descriptors are the receiver's.

    Attributes:
        lock_fd: Holds the state directory.
        listeners: By what they serve: the address as configured, and the listening socket.
        upgrade: How far the upgrade has come, for `Upgrade.resume`.
        stop: Somebody asked for a stop meanwhile.
    """

    lock_fd: int = -1
    listeners: dict[str, tuple[str, int]] = field(default_factory=dict)
    upgrade: dict[str, Any] = field(default_factory=dict)
    stop: bool = False

    @classmethod
    def receive(cls) -> Handover | None:
        """What the daemon before left in the environment, once; None: there was none."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        handover = cls(**json.loads(text))
        for fd in handover._fds:
            os.set_inheritable(fd, False)
        return handover

    def take_listener(self, role: str, address: str) -> int | None:
        """The socket that listens already, if it does so at the address wanted now."""
        given, fd = self.listeners.pop(role, ("", -1))
        if fd >= 0 and given != address:
            os.close(fd)
            return None
        return fd if fd >= 0 else None

    def replace_process(self, command: Sequence[str]) -> NoReturn:
        """Runs a command in place of this process. Nothing of this one may be needed any more.

        All other descriptors that Python or gRPC opened close by themselves. A stop signal that
        comes from now on waits for `release_signals` of the next daemon.

        Raises:
            Unavailable: the command cannot be run.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for fd in self._fds:
            os.set_inheritable(fd, True)
        environment = {**os.environ, VARIABLE: json.dumps(asdict(self))}
        try:
            os.execve(command[0], list(command), environment)
        except OSError as error:
            raise Unavailable(
                f"cannot run {command[0]} in place of this daemon: {error.strerror}",
                hint="its children serve on for node.orphan_grace; start gslice before that ends",
            ) from error

    @property
    def _fds(self) -> list[int]:
        return [self.lock_fd, *(fd for _, fd in self.listeners.values())]


def release_signals() -> None:
    """Handlers are in place: what waited since `replace_process` comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
