"""Cleaning up after processes that could not do so themselves.

Segments are memory of descriptors and go with the last process that holds one; locks go with their
holder; sockets of dead children are removed when the daemon adopts the living. Control groups are
what the kernel keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.events import EventKind
from gslice.device.cgroup import remove_stale
from gslice.device.program_group import remove_stale_programs
from gslice.supervise.logs import DAEMON_LOG_NAME

if TYPE_CHECKING:
    from gslice.supervise.node import Node


def reclaim(node: Node) -> None:
    """Removes the control groups of processes that are gone."""
    for group in {*remove_stale(), *remove_stale_programs()}:
        text = f"removed the control group {group} of a dead process"
        node.event(DAEMON_LOG_NAME, EventKind.DAEMON, text)
