"""The audit log of a node: a line of JSON for every control action, and how it is read."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "audit.jsonl"
KEPT = 8  # full files, beside the one that is written
PID_HEADER = "gslice-pid"  # of a call of the control API: whose of the connections it came by
FOR_HEADER = "gslice-for"  # likewise, from a front-end: for whom it is made


def files(state_dir: Path) -> list[Path]:
    """The files that there may be, newest first."""
    return [state_dir / FILE, *(state_dir / f"audit.{n}.jsonl" for n in range(1, KEPT + 1))]


def newest(state_dir: Path, count: int) -> list[dict[str, Any]]:
    """The last actions, oldest first.

    Args:
        state_dir: Of the daemon.
        count: How many.

    Raises:
        OSError: a file may not be read.
    """
    found: list[dict[str, Any]] = []
    for path in files(state_dir):
        if len(found) >= count:
            break
        with contextlib.suppress(FileNotFoundError):  # also while files are put aside
            found = [*_entries(path), *found]
    return found[-count:] if count else []


def changes(entry: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What an action changed: by name, before and after."""
    before, after = entry.get("before") or {}, entry.get("after") or {}
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the machine died while it was written
            yield {"outcome": "unreadable", "detail": line.decode(errors="replace")}
