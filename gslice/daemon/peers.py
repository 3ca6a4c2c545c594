"""Who is at the other end of the control socket: what the kernel says, not what they say.

gRPC does not tell which connection a call came by. But the connections are this process's, so the
kernel tells who made each; a caller says which one it is, by its process id, and is believed if
there is one such.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gslice.core.audit import FOR_HEADER, PID_HEADER

if TYPE_CHECKING:
    from collections.abc import Container

    from gslice.daemon.audit import Who

VIA = "control socket"
VIA_PAGE = "web page"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_NOBODY = 2**32 - 1  # of /proc/PID/loginuid: nobody logged in for it


@dataclass(frozen=True)
class Peer:
    """A process that has connected.

    Attributes:
        pid: Its id; 0: it is of another namespace.
        uid: Whose it was then.
    """

    pid: int
    uid: int


def caller(path: Path, context: Any, frontends: Container[int] = ()) -> Who:
    """Who makes a call on a Unix socket.

    Args:
        path: Of the socket.
        context: The call's.
        frontends: Process ids of front-ends, which say for whom they call: for the web page.
    """
    headers = dict(context.invocation_metadata())
    claimed = headers.get(PID_HEADER, "")
    who = identify(peers(path), int(claimed) if claimed.isdecimal() else 0)
    if FOR_HEADER in headers and who.get("pid") in frontends:
        return {"name": headers[FOR_HEADER], "via": VIA_PAGE, "pid": who["pid"]}
    return who


def identify(found: set[Peer], claimed_pid: int) -> Who:
    """Who of those that are connected says to be a process."""
    named = [peer for peer in found if peer.pid == claimed_pid != 0]
    uids = sorted({peer.uid for peer in named or found})
    if len(uids) != 1:
        return {"name": f"one of uids {uids}" if uids else "unknown", "via": VIA}
    who: Who = {"name": _user(uids[0]), "uid": uids[0], "via": VIA}
    if named:
        who["pid"] = claimed_pid
        if (login := _login_uid(claimed_pid)) is not None:
            who["login_uid"] = login
    return who


def peers(path: Path) -> set[Peer]:
    """The processes that are connected to a Unix socket on which this one listens."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(entry.stat().st_mode):
                found |= _peer(int(entry.name), str(path))
    return found


def _peer(fd: int, path: str) -> set[Peer]:
    with socket.socket(fileno=os.dup(fd)) as end:
        if end.family != socket.AF_UNIX or end.getsockname() != path:
            return set()
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return set()
        told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(told)
        return {Peer(pid, uid)}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _login_uid(pid: int) -> int | None:
    """Who logged in before becoming somebody else, where the kernel keeps that."""
    try:
        uid = int(Path(f"/proc/{pid}/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY else uid
