"""The threads of a process, by kernel id."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path


def thread_ids(pid: int | None = None) -> set[int]:
    """All threads that exist now.

    Args:
        pid: A process id; None: this process.

    Raises:
        FileNotFoundError: it has ended.
    """
    return {int(entry.name) for entry in Path(f"/proc/{pid or 'self'}/task").iterdir()}


def pin(tids: Iterable[int], cpus: Collection[int]) -> None:
    """Has threads run on these cores only; one that has ended needs no cores."""
    for tid in tids:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(tid, cpus)
