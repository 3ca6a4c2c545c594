"""What a child process needs to know of itself and of its parent's gifts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.proc import stat_fields
from gslice.ipc.messages import (
    LISTEN_FD,
    PROTOCOL_VERSION,
    FrontendState,
    Hello,
    HostState,
    WorkerState,
)


def start_ticks(pid: int | None = None) -> int:
    """Start time of a process in clock ticks since boot: with its pid, a name that is never reused.

    Args:
        pid: A process id; None: this process.

    Raises:
        NotFound: There is no such process.
    """
    try:
        return int(stat_fields(pid or os.getpid())[19])
    except (FileNotFoundError, ProcessLookupError):
        raise NotFound(f"there is no process {pid}") from None


def hello(
    worker: WorkerState | None = None,
    frontend: FrontendState | None = None,
    host: HostState | None = None,
) -> Hello:
    """What this process says first to a daemon."""
    return Hello(PROTOCOL_VERSION, os.getpid(), start_ticks(), worker, frontend, host)


def owner_of(pid: int) -> int:
    """The user that a process runs as; -1 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), -1)


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process; 0 when it is gone.

    Args:
        pid: A process id; None: this process.
    """
    try:
        pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def own_bytes() -> int:
    """Resident memory of this process without what it shares: segments count for themselves."""
    sizes = dict.fromkeys(("VmRSS", "RssShmem"), 0)
    for line in Path("/proc/self/status").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key in sizes:
            sizes[key] = int(value.split()[0]) * 1024
    return sizes["VmRSS"] - sizes["RssShmem"]


def adopt_listener(fd: int = LISTEN_FD) -> socket.socket:
    """The listening SOCK_SEQPACKET socket that the parent left in a descriptor.

    Raises:
        FailedPrecondition: The descriptor is not such a socket.
    """
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise FailedPrecondition(
            f"descriptor {fd} is no socket: {error.strerror}",
            hint="this program is started by the gslice daemon, not by hand",
        ) from error
    if listener.type != socket.SOCK_SEQPACKET or not listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        listener.detach()
        raise FailedPrecondition(f"descriptor {fd} is not a listening SOCK_SEQPACKET socket")
    listener.set_inheritable(False)
    return listener
