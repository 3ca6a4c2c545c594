"""The sockets of a server, which gRPC itself does not show: who gets the next connection.

Front-ends share their port by SO_REUSEPORT, and the kernel deals new connections out among them.
While one is replaced, all must go to its successor: a connection in the queue of a listener that
closes is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gslice.core.errors import Unavailable

BACKLOG = 4096  # connections that wait to be accepted; the kernel has a bound of its own
_SO_ATTACH_REUSEPORT_CBPF = 51  # of <asm-generic/socket.h>; Python has no names for them
_SO_DETACH_REUSEPORT_BPF = 68
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_BPF_RETURN = 0x06  # BPF_RET | BPF_K
_QUEUED_AT = 24  # of `struct tcp_info`: tcpi_unacked, of a listener the length of its queue


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("constant", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


async def listen_at(address: str) -> socket.socket:
    """A listening socket that other front-ends may share.

    Args:
        address: host:port; port 0 takes a free one.

    Raises:
        Unavailable: It cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, place = (
            await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        )[0]
        return listen(family, place, BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {address}: {error.strerror or error}",
            hint="choose another address, or free it",
        ) from error


def listen(family: int, place: tuple[Any, ...], backlog: int) -> socket.socket:
    """Listens as gRPC's own servers do: for both families on one socket, where there is IPv6.

    Listeners of a port have connections in common with those of their family alone, and IPv4's
    come first: a front-end of one kind could not take over from one of the other.

    Args:
        family: As `getaddrinfo` gives it.
        place: Likewise.
        backlog: How many connections may wait to be accepted.

    Raises:
        OSError: It cannot be listened on.
    """
    if family == socket.AF_INET and _has_ipv6():
        host, port = place[:2]
        family, place = socket.AF_INET6, ("::" if host == "0.0.0.0" else f"::ffff:{host}", port)
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def attract(port: int, place: int) -> None:
    """Has the kernel give all new connections to one of the listeners of a port.

    Args:
        port: Of a listener of this process.
        place: The listener's among those of the port, in the order in which they came; when one
            closes, the last takes its place. Where there is none, the kernel divides as usual.

    Raises:
        Unavailable: the kernel does not do that.
    """
    instruction = _Instruction(_BPF_RETURN, 0, 0, place)
    program = _Program(1, ctypes.pointer(instruction))
    _set(port, _SO_ATTACH_REUSEPORT_CBPF, bytes(program))


def divide(port: int) -> None:
    """Has the kernel divide new connections among the listeners of a port, as it does unasked.

    Raises:
        Unavailable: the kernel does not do that.
    """
    _set(port, _SO_DETACH_REUSEPORT_BPF, 0)


def connections(port: int) -> int:
    """How many clients are connected to a port of this process, accepted or still in its queue."""
    # The queue first: what is accepted meanwhile is then found among the others.
    waiting = sum(_queued(sock) for sock in _sockets(port) if _listens(sock))
    return waiting + sum(not _listens(sock) for sock in _sockets(port))


def _has_ipv6() -> bool:
    """Found out as gRPC does."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _set(port: int, option: int, value: bytes | int) -> None:
    try:
        for sock in filter(_listens, _sockets(port)):
            sock.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError as error:
        raise Unavailable(
            f"the kernel does not direct connections: {error.strerror}", hint="Linux 5.3 does"
        ) from error


def _sockets(port: int) -> Iterator[socket.socket]:
    """This process's TCP sockets of a port, each a duplicate that is closed after its turn.

    Nothing is set on them but what a caller sets: their blocking mode is shared with gRPC.
    """
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if not str(entry.readlink()).startswith("socket:"):
                continue
            fd = os.dup(int(entry.name))
            try:
                sock = socket.socket(fileno=fd)
            except OSError:
                os.close(fd)
                continue
            with sock:
                if sock.family in _TCP_FAMILIES and sock.getsockname()[1] == port:
                    yield sock


def _queued(listener: socket.socket) -> int:
    """Connections that wait to be accepted; a listener that closes would reset them."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED_AT + 4)
    return int.from_bytes(info[_QUEUED_AT:], sys.byteorder)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
