"""The threads of this process, by kernel id."""

from __future__ import annotations

from pathlib import Path


def thread_ids() -> set[int]:
    """All threads that exist now."""
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
