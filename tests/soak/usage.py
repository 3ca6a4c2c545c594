"""Memory, descriptors and threads of a node's processes, and the segments that they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MIB = 1 << 20
_SEGMENT = "/memfd:gslice:"


@dataclass(frozen=True)
class Usage:
    """What one role of the node uses; the most that any of its processes does.

    Attributes:
        rss_bytes: Resident memory.
        fds: Open descriptors.
        threads: Threads.
    """

    rss_bytes: int
    fds: int
    threads: int

    def __str__(self) -> str:
        return f"{self.rss_bytes / MIB:.1f} MiB, {self.fds} fds, {self.threads} threads"


def usage(status: Any) -> dict[str, Usage]:
    """Role -> its usage, of a node's status."""
    return {role: _most(pids, _usage_of) for role, pids in _roles(status).items()}


def segments(status: Any) -> dict[str, int]:
    """Role -> how many segments a process of it holds."""
    counts = {}
    for role, pids in _roles(status).items():
        counts[role] = max(_segments_of(pid) for pid in pids)
    return counts


def growth(
    before: dict[str, Usage], after: dict[str, Usage], *, rss_bytes: int, fds: int, threads: int
) -> list[str]:
    """The roles of both that use more than before by more than is allowed, in words."""
    return [
        f"{role} grew from {old} to {new}"
        for role, old in before.items()
        if (new := after.get(role)) is not None
        and (
            new.rss_bytes > old.rss_bytes + rss_bytes
            or new.fds > old.fds + fds
            or new.threads > old.threads + threads
        )
    ]


def _roles(status: Any) -> dict[str, list[int]]:
    return {
        "daemon": [status.pid],
        "front-end": [frontend.pid for frontend in status.frontends],
        **{f"worker of {f.name}": [w.pid for w in f.workers] for f in status.functions},
    }


def _most(pids: list[int], usage_of: Callable[[int], Usage]) -> Usage:
    found = [usage_of(pid) for pid in pids]
    return Usage(
        max(one.rss_bytes for one in found),
        max(one.fds for one in found),
        max(one.threads for one in found),
    )


def _usage_of(pid: int) -> Usage:
    process = psutil.Process(pid)
    return Usage(process.memory_info().rss, process.num_fds(), process.num_threads())


def _segments_of(pid: int) -> int:
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith(_SEGMENT)
        except FileNotFoundError:  # closed meanwhile
            continue
    return count
