"""Memory as clients register it with the daemon."""

from __future__ import annotations

import os

from gslice.core.config import ClientMemoryConfig
from gslice.ipc.messages import ClientRegion

PREFIX = f"/gslice-test-{os.getpid()}-"
CONFIG = ClientMemoryConfig(PREFIX, 1 << 20, os.geteuid())
SECRET = "gslice-client:" + "ab" * 16


def own(fd: int, name: str = SECRET) -> ClientRegion:
    return ClientRegion(name, f"/proc/{os.getpid()}/fd/{fd}", 0, 4096)
