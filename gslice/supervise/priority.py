"""The CPU priority of processes that prepare something while others serve."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from pathlib import Path

_STEPS = 10  # of nice: about a tenth of what the others get, where cores are contended
_NICE_MAX = 19


def lower(pid: int) -> None:
    """Puts a process that has just been started below this one; its threads to come inherit that.

    It stays where it is if this user could not raise it again.
    """
    if may_raise():
        os.setpriority(os.PRIO_PROCESS, pid, min(_NICE_MAX, _own() + _STEPS))


def restore(pid: int) -> None:
    """Puts all threads of a process that was lowered where this one's are; a dead one has none."""
    if not may_raise():
        return
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), _own())


@functools.cache
def may_raise() -> bool:
    """Whether this user may raise a priority that it lowered. Only a trial tells for sure.

    Root in a user namespace has the capability and may not; RLIMIT_NICE lets others do it.
    """
    allowed = []

    def attempt() -> None:
        # A thread has a niceness of its own, and this one ends with whatever it has got.
        try:
            own, tid = _own(), threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, tid, own + 1)
            os.setpriority(os.PRIO_PROCESS, tid, own)
        except PermissionError:
            return
        allowed.append(True)

    trial = threading.Thread(target=attempt, name="gslice-priority")
    trial.start()
    trial.join()
    return bool(allowed)


def _own() -> int:
    return os.getpriority(os.PRIO_PROCESS, os.getpid())
