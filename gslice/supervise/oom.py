"""Deaths for want of memory: the kernel kills with SIGKILL, as anybody can, but it keeps count.

Its count is of a control group, not of a process. It is a process's if it grew a moment ago and the
process was killed then; each kill counted explains one death.
Kernel documentation: admin-guide/cgroup-v2 (memory.events), admin-guide/cgroup-v1/memory
(memory.oom_control).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gslice.device.cgroup import own_group

KILLED = "killed by SIGKILL"
FRESH_S = 10.0  # a process that holds much takes a while to end
_COUNTERS = {2: ("memory.events.local", "memory.events"), 1: ("memory.oom_control",)}
_PROC = Path("/proc")


@dataclass
class _Counter:
    """The kernel's count of one group, as it was seen last."""

    count: int
    unexplained: int = 0
    grown_s: float = 0.0


class OomWatch:
    """Tells whether the kernel killed processes for want of memory.

    Args:
        proc: Where the kernel tells of processes.
    """

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._counters: dict[Path, _Counter] = {}
        self._files: dict[int, Path] = {}  # by process id

    def watch(self, pid: int, now_s: float, group: Path | None = None) -> None:
        """Notes in what group a process is; again, in case it was moved.

        Where the kernel has no such group or no such count, nothing is ever told of it.

        Args:
            pid: The process.
            now_s: The time, on the monotonic clock.
            group: Where it is, or will be in a moment; None: where it is found.
        """
        self.forget(pid)
        path = _counter_file(self._proc / str(pid)) if group is None else _counter_in(group)
        if path is not None:
            self._files[pid] = path
            self._read(path, now_s)

    def look(self, now_s: float) -> None:
        """Reads the kernel's counts, so that it is known when they grew; called every now and then.

        Args:
            now_s: The time, on the monotonic clock.
        """
        for path in set(self._files.values()):
            self._read(path, now_s)

    def forget(self, pid: int) -> None:
        """A process has ended."""
        self._files.pop(pid, None)

    def explain(self, pid: int, how: str, now_s: float) -> str:
        """Says more of how a process died, if the kernel does; asked once it has died.

        Args:
            pid: The process.
            how: In words.
            now_s: The time, on the monotonic clock.
        """
        path = self._files.get(pid)
        if path is None or how != KILLED:
            return how
        counter = self._read(path, now_s)
        if counter is None or counter.unexplained == 0:
            return how
        counter.unexplained -= 1
        return f"{how}: the kernel found no memory for it in {path.parent}"

    def _read(self, path: Path, now_s: float) -> _Counter | None:
        count = _read_count(path)
        if count is None:  # the group is gone
            self._counters.pop(path, None)
            return None
        counter = self._counters.setdefault(path, _Counter(count))
        if now_s - counter.grown_s > FRESH_S:
            counter.unexplained = 0  # those were no children of ours
        if count > counter.count:
            counter.unexplained += count - counter.count
            counter.grown_s = now_s
        counter.count = count
        return counter


def _counter_file(process: Path) -> Path | None:
    """The file that counts the kills of a process's group."""
    for version in _COUNTERS:
        try:
            group, _ = own_group(process, version, "memory")
        except OSError:  # it has died
            return None
        if group is not None and (counter := _counter_in(group)) is not None:
            return counter
    return None


def _counter_in(group: Path) -> Path | None:
    files = (group / name for names in _COUNTERS.values() for name in names)
    return next((file for file in files if _read_count(file) is not None), None)


def _read_count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
