"""Looks for what a stopped node may have left behind: processes, sockets, segments, cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MARK = "GSLICE_NODE_DIRECTORY"


class Traces:
    """Tells one node's processes, sockets, segments and cgroups from everything else.

    Args:
        directory: The node's own directory. Its path marks the environment of every process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mark = f"{_MARK}={directory}".encode()
        self._cgroups_before = set(_cgroups())

    @property
    def environment(self) -> dict[str, str]:
        """Set this for the node's first process; its children inherit it."""
        return {_MARK: str(self._directory)}

    def left(self) -> list[str]:
        """What is left, in words; empty if nothing."""
        processes = self._processes()
        return [
            *(f"process {process.pid}" for process in processes),
            *(f"segment {name}" for process in processes for name in _segments(process.pid)),
            *(f"socket {path}" for path in self._directory.rglob("*") if path.is_socket()),
            *(f"cgroup {path}" for path in self._cgroups()),
        ]

    def kill(self, timeout_s: float) -> None:
        """Kills what is still there, and waits for it."""
        processes = self._processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=timeout_s)

    def _processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process.pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            return False

    def _cgroups(self) -> list[Path]:
        """Empty groups that were not there before, of nobody who lives: those are other nodes'."""
        new = (path for path in _cgroups() if path not in self._cgroups_before)
        return [path for path in new if _empty(path) and not _in_use(path)]


def _segments(pid: int) -> Iterator[str]:
    """Segments are anonymous memory files: they live as long as a process holds them."""
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("/memfd:gslice"):
                yield target.removeprefix("/memfd:").removesuffix(" (deleted)")
    except OSError:  # the process is gone, and its segments with it
        return


def _cgroups() -> Iterator[Path]:
    for directory, names, _ in os.walk(_CGROUP_ROOT):  # passes by what vanishes on the way
        yield from (Path(directory, name) for name in names if "gslice" in name)


def _empty(cgroup: Path) -> bool:
    members = ("cgroup.threads", "tasks", "cgroup.procs")
    try:
        return not any((cgroup / name).read_text() for name in members if (cgroup / name).exists())
    except OSError:  # gone meanwhile
        return False


def _in_use(cgroup: Path) -> bool:
    """Whether the process lives that its name ends in (gslice/device/cgroup.py)."""
    _, _, pid = cgroup.name.rpartition("-")
    return pid.isdecimal() and psutil.pid_exists(int(pid))
