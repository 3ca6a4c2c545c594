"""What a process gives up before it touches anything of a client or of a model."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38  # of linux/prctl.h


def harden() -> None:
    """Gives up what this process and its children never need.

    No program that is set-user-id gives them more than they have, and no crash writes the memory
    of requests, weights or keys to a file.

    Raises:
        OSError: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no_new_privs: {os.strerror(number)}")
