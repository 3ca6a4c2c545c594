"""Settings of the front-ends: from their shape in the file to what the daemon goes by."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from gslice.core.config.access import PORTS
from gslice.core.config.document import Problem
from gslice.core.config.types import ClientMemoryConfig
from gslice.core.tls import TlsFiles
from gslice.core.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.config.node import ClientMemory, Node, Tls

_MIB = 1 << 20
_MEMORY_BYTES = 256 << 20


def check_ports(node: Node, problems: list[Problem]) -> None:
    """Tells of ports that are to be used twice."""
    taken: dict[str, str] = {}
    for key in PORTS:
        address = getattr(node, key)
        if not address or address.endswith(":0"):
            continue
        first = taken.setdefault(address, key)
        if first != key:
            text = f"{address} is node.{first} already; use another port"
            problems.append(Problem(("node", key), text))


def pinned_memory(node: Node) -> int:
    """Bytes of all functions' segments together; by default a quarter of the machine's."""
    quarter = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return node.pinned_memory or quarter & -_MIB


def frontend_memory(node: Node, problems: list[Problem]) -> int:
    """Bytes that messages may take in a front-end.

    Args:
        node: Settings of the daemon.
        problems: Gets one if the largest message would not fit.
    """
    if 0 < node.frontend_memory < node.request_max:
        text = (
            f"{format_size(node.frontend_memory)} is less than node.request_max,"
            f" {format_size(node.request_max)}: no room for one such message"
        )
        problems.append(Problem(("node", "frontend_memory"), text))
    return node.frontend_memory or max(_MEMORY_BYTES, node.request_max)


def tls_files(
    tls: Tls | None, resolve: Callable[[str], str], problems: list[Problem]
) -> TlsFiles | None:
    """What a port shows and asks certificates by.

    Args:
        tls: As in the file; None: it is not there.
        resolve: Makes a path of the file absolute.
        problems: Gets one if no server could use them.
    """
    if tls is None:
        return None
    files = TlsFiles(*map(resolve, (tls.certificate, tls.key, tls.client_authority)))
    if problem := files.problem():
        key, text = problem
        problems.append(Problem(("node", "tls", key), text))
    return files


def client_memory(
    memory: ClientMemory | None, problems: list[Problem]
) -> ClientMemoryConfig | None:
    """Which memory of clients requests may name, with its owner as a number.

    Args:
        memory: As in the file; None: it is not there.
        problems: Gets one if there is no such user.
    """
    if memory is None:
        return None
    owner_uid = os.geteuid()
    if isinstance(memory.owner, int):
        owner_uid = memory.owner
    elif memory.owner is not None:
        try:
            owner_uid = pwd.getpwnam(memory.owner).pw_uid
        except KeyError:
            path = ("node", "client_memory", "owner")
            problems.append(Problem(path, f"there is no user {memory.owner!r}"))
    return ClientMemoryConfig(memory.prefix, memory.max, owner_uid)
