"""glibc's allocator, told to keep what it has, up to a bound."""

from __future__ import annotations

import asyncio
import ctypes
import resource
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes
KEPT_BYTES = 64 << 20
_LOOK_S = 5.0


def keep_freed_memory() -> None:
    """Has freed memory serve the next message instead of going back to the kernel.

    By default glibc maps a buffer of some hundred kilobytes anew for each message and gives it
    back afterwards, so that each costs a page fault for every 4 KiB, a few times over: more than
    all copies together. Other C libraries have no such call, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


async def bound_freed_memory() -> None:
    """Gives back now and then what is kept beyond that, until it is cancelled.

    By itself glibc gives back only what is free at the end of its heap, and something small there
    pins all the rest: after a burst of calls that were given up, such as the 80 bytes that grpc.aio
    loses of each (grpc/grpc#43360).
    """
    heap = Heap()
    while True:
        await asyncio.sleep(_LOOK_S)
        heap.look()


class Heap:
    """This process's own memory, and how little of it there was when all was given back."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least_bytes = own_bytes()

    def look(self) -> None:
        """Gives free memory back if there is much more than at the last time."""
        if self._trim is None or own_bytes() <= self._least_bytes + KEPT_BYTES:
            return
        self._trim(0)
        self._least_bytes = own_bytes()


def own_bytes() -> int:
    """Resident memory of this process that is nobody else's."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()
