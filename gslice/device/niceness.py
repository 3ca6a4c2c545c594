"""Work that gives way: this process's threads are lowered, and raised again when it is done."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from gslice.device.tasks import thread_ids

GENTLE = 15  # a thirtieth of a normal thread's part of a contended core
_CAP_SYS_NICE = 1 << 23


def may_raise() -> bool:
    """Whether this process may take back a niceness above zero."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    if soft == resource.RLIM_INFINITY or soft >= 20:  # 20 - niceness 0
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_NICE)
    return False


def lower() -> int | None:
    """Lowers the calling thread, and what it starts from now on.

    Returns:
        Its niceness before, for `restore`; None: nothing was done, for it could not be undone.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if before >= GENTLE or not may_raise():
        return None
    os.setpriority(os.PRIO_PROCESS, 0, GENTLE)
    return before


def restore(before: int | None) -> None:
    """Gives all threads that `lower` reached their niceness back."""
    if before is None:
        return
    for tid in thread_ids():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            if os.getpriority(os.PRIO_PROCESS, tid) == GENTLE:
                os.setpriority(os.PRIO_PROCESS, tid, before)
