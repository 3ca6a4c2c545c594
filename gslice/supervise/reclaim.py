"""Cleaning up after processes that could not do so themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.errors import NotFound

if TYPE_CHECKING:
    from gslice.supervise.node import Node


def reclaim(node: Node) -> None:
    """Removes what dead processes left: sockets that nobody serves, cgroups without a process.

    Segments are memory of descriptors, and go with the last process that holds one.
    """
    for name in node.run_dir.names():
        try:
            node.run_dir.connect(name).close()
        except NotFound:
            node.run_dir.remove(name)
            node.event(name, "removed a socket that a dead process left")
