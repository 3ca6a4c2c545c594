"""What processes have used of the machine, as the kernel counts it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)


def roles(status: Any) -> dict[str, list[int]]:
    """A node's processes.

    Args:
        status: `gslice.v1.Status` of the node.
    """
    return {
        "front-end": [frontend.pid for frontend in status.frontends],
        "worker": [worker.pid for function in status.functions for worker in function.workers],
        "daemon": [status.pid],
    }


def pids_of(status: Any) -> list[int]:
    """All of a node's processes."""
    return [pid for found in roles(status).values() for pid in found]


def cpu_ns(pids: Iterable[int]) -> int:
    """Processor time of processes, with threads that have ended."""
    return sum(time.clock_gettime_ns(_cpu_clock(pid)) for pid in pids)


def context_switches(pids: Iterable[int]) -> int:
    """Of all threads that live, wanted and unwanted ones."""
    statuses = [
        path.read_text() for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/status")
    ]
    return sum(int(count) for status in statuses for count in _SWITCHES.findall(status))


def _cpu_clock(pid: int) -> int:
    """clock_getcpuclockid(3): what Linux makes of a process's number."""
    return ~pid << 3 | 2
