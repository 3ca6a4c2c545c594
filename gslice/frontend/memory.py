"""glibc's allocator, told to keep what it has."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes
_KEPT_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Has freed memory serve the next message instead of going back to the kernel.

    By default glibc maps a buffer of some hundred kilobytes anew for each message and gives it
    back afterwards, so that each costs a page fault for every 4 KiB, a few times over: more than
    all copies together. Other C libraries have no such call, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
