"""The CPU as a device."""

from __future__ import annotations

import functools
import math
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuDevice:
    """Cores, and an instance's share of them.

    Attributes:
        cpus: The cores' numbers.
        share_percent: The share, of all of them together.
    """

    cpus: tuple[int, ...]
    share_percent: float

    @property
    def threads(self) -> int:
        """Threads that the share can keep busy, at least one."""
        cores = len(self.cpus) * self.share_percent / 100
        return min(max(1, math.ceil(cores - 1e-9)), max(1, len(self.cpus)))


@functools.cache
def cpu_model() -> str:
    """The processor's name, as the kernel tells it; else its architecture."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
