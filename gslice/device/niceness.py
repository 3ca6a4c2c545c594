"""Work that gives way: threads are lowered while they prepare something, and raised again."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Collection
from pathlib import Path

from gslice.device.tasks import thread_ids

GENTLE = 15  # a thirtieth of a normal thread's part of a contended core


@functools.cache
def may_raise() -> bool:
    """Whether this user may take back a niceness. Only a trial tells for sure.

    RLIMIT_NICE allows it, and the capability does, but not one of a user namespace alone.
    """
    allowed = []

    def attempt() -> None:
        # A thread has a niceness of its own, and this one ends with whatever it has got.
        own, tid = _own(), threading.get_native_id()
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, tid, own + 1)
            os.setpriority(os.PRIO_PROCESS, tid, own)
            allowed.append(True)

    trial = threading.Thread(target=attempt, name="gslice-niceness")
    trial.start()
    trial.join()
    return bool(allowed)


def lower() -> int | None:
    """Lowers the calling thread, and what it starts from now on.

    Returns:
        Its niceness before, for `restore`; None: nothing was done, for it could not be undone.
    """
    before = _own()
    if before >= GENTLE or not may_raise():
        return None
    os.setpriority(os.PRIO_PROCESS, 0, GENTLE)
    return before


def restore(before: int | None) -> None:
    """Gives all threads that `lower` reached their niceness back."""
    if before is not None:
        _raise(thread_ids(), before)


def lower_child(pid: int) -> None:
    """Likewise for a process that was just started; to be undone by `restore_child`."""
    if _own() < GENTLE and may_raise():
        os.setpriority(os.PRIO_PROCESS, pid, GENTLE)


def restore_child(pid: int) -> None:
    """Gives all threads of a lowered child the niceness of this thread; a dead one has none."""
    if _own() < GENTLE and may_raise():
        with contextlib.suppress(FileNotFoundError):
            _raise({int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}, _own())


def _raise(tids: Collection[int], niceness: int) -> None:
    for tid in tids:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            if os.getpriority(os.PRIO_PROCESS, tid) == GENTLE:
                os.setpriority(os.PRIO_PROCESS, tid, niceness)


def _own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)
