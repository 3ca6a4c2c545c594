"""The node's memory."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int:
    """What the kernel says can be taken without swapping: MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable: a kernel before 3.14")
