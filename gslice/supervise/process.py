"""A process seen from outside: how it is started, how its death is noticed, how it is ended.

Deaths arrive through a pidfd on the event loop, so a process id that was used again is never hit,
and a process of an earlier daemon is watched like one of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gslice.core.errors import NotFound
from gslice.core.hardening import entrance, inherited
from gslice.device.niceness import lower_child
from gslice.ipc.messages import LISTEN_FD
from gslice.ipc.process import start_ticks

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from gslice.core.users import User


@dataclass(frozen=True)
class Launch:
    """How to start a child.

    Attributes:
        module: Run as `python -m`.
        arguments: After the module.
        log: File that takes its standard output and error.
        environment: Added to the daemon's own, of which nothing of MPS is passed on.
        lowered: It starts at low CPU priority.
        user: Whom it runs as; None: whom we run as.
        closed: What only we should know is not passed on of our environment, although it runs as
            we do: it will become another user.
    """

    module: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    lowered: bool = False
    user: User | None = None
    closed: bool = False


class Process:
    """A running process; its descriptor is closed when it has died and been noticed.

    Args:
        pid: Its id.
        started: Its start ticks (`gslice.ipc.process.start_ticks`).
        ends_group: What it started and left behind is killed at its death, if it is our child.

    Raises:
        NotFound: it is gone, or the id is another process's by now.
    """

    def __init__(self, pid: int, started: int, *, ends_group: bool = True) -> None:
        self._ends_group = ends_group
        self.suspects: Collection[object] = ()
        """Of several that live in it, those that it may have died of; empty: any of them."""
        self.pid = pid
        self.started = started
        self._loop = asyncio.get_running_loop()
        self.death: asyncio.Future[str] = self._loop.create_future()
        """Resolves with how it ended, in words, such as `killed by SIGKILL`."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise NotFound(f"there is no process {pid}") from None
        try:
            # The order matters: from here on the id cannot be given to another process unnoticed.
            if start_ticks(pid) != started:
                raise NotFound(f"process {pid} is not the one that was started")
        except BaseException:
            os.close(self._pidfd)
            raise
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def alive(self) -> bool:
        """False once the death has been noticed."""
        return not self.death.done()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it is still there; what has become another user's gets none."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self, timeout_s: float) -> bool:
        """Waits for its death.

        Returns:
            True: it is dead.
        """
        await asyncio.wait([self.death], timeout=timeout_s)
        return self.death.done()

    async def kill(self) -> None:
        """Kills it with SIGKILL and waits until it is gone."""
        self.signal(signal.SIGKILL)
        await asyncio.shield(self.death)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        how = _reap(self.pid, self._pidfd, self._ends_group)
        os.close(self._pidfd)
        self.death.set_result(how)


class Lodger:
    """One of several that live in a process: it may end before it, and dies with it.

    Seen from outside it is like a `Process`, but whoever kills it kills them all.

    Args:
        process: Where it lives.

    Attributes:
        works: Whether it is doing something now; also asked right after the process has died.
    """

    def __init__(self, process: Process) -> None:
        self.works: Callable[[], bool] = lambda: False
        self._process = process
        self.pid = process.pid
        self.started = process.started
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        process.death.add_done_callback(lambda death: self._ended(death.result()))

    @property
    def alive(self) -> bool:
        """False once it has left, or the death of the process has been noticed."""
        return not self.death.done()

    @property
    def is_blamed(self) -> bool:
        """Whether the process may have died of what this one did."""
        return not self._process.suspects or self in self._process.suspects

    def left(self) -> None:
        """It has given everything back, and the process lives on."""
        self._ended("ended")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        if self.alive and self._process.alive:
            self._process.suspects = self._process.suspects or (self,)
            self._process.signal(number)

    async def wait(self, timeout_s: float) -> bool:
        """See `Process.wait`."""
        await asyncio.wait([self.death], timeout=timeout_s)
        return self.death.done()

    async def kill(self) -> None:
        """Kills the process, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        await asyncio.shield(self.death)

    def _ended(self, how: str) -> None:
        if self.alive:
            self.death.set_result(how)


def start(launch: Launch, listener: socket.socket) -> Process:
    """Starts a child that finds `listener` as descriptor 3, in a session of its own.

    What the daemon's own environment says of MPS is not meant for it. It inherits no other
    descriptor: Python opens descriptors close-on-exec. The own session keeps the
    terminal's Ctrl-C to the daemon, which stops its children in order.
    """
    # -P: the working directory must not shadow modules; -u: a print reaches the log at once.
    arguments = [sys.executable, "-P", "-u", "-m", launch.module, *launch.arguments]
    passed = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_MPS_")}
    if launch.user is not None or launch.closed:
        passed = inherited(passed)
    environment = {**passed, **launch.environment}
    process = spawn(arguments, environment, launch.log, listener, user=launch.user)
    if launch.lowered:
        lower_child(process.pid)
    return process


def spawn(
    arguments: list[str],
    environment: Mapping[str, str],
    log: Path,
    listener: socket.socket | None = None,
    *,
    ends_group: bool = True,
    user: User | None = None,
) -> Process:
    """Starts any program, in a session of its own.

    Args:
        arguments: The program's path first.
        environment: All of it.
        log: File that takes its standard output and error.
        listener: What it finds as descriptor 3, if anything; it inherits nothing else.
        ends_group: As of `Process`.
        user: Whom it runs as; None: whom we run as.
    """
    if user is not None:
        known = {**user.environment, **environment}
        arguments, environment = entrance(user.uid, user.gid, user.groups, arguments, known)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    passed = [(os.POSIX_SPAWN_DUP2, listener.fileno(), LISTEN_FD)] if listener else []
    pid = os.posix_spawn(
        arguments[0],
        arguments,
        environment,
        file_actions=[
            *passed,
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )
    try:
        return Process(pid, start_ticks(pid), ends_group=ends_group)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _reap(pid: int, pidfd: int, ends_group: bool) -> str:
    """Collects the exit status of our own child, and may end what it started and left behind.

    Another's status is not ours to see, nor is its group ours to kill: once its parent has reaped
    it, the id may be another process's.
    """
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ends_group:
            with contextlib.suppress(OSError):  # what took another user's identity is beyond us
                os.killpg(pid, signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return "ended"
    if result is None:
        return "ended"
    if result.si_code == os.CLD_EXITED:
        return f"exited with code {result.si_status}"
    return f"killed by {signal.Signals(result.si_status).name}"
