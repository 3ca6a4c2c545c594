"""A share as a CPU quota: control groups, version 1 or 2, for threads.

Each instance gets a group `gslice.<function>-<pid>` below its process's own, with the quota
share x cores in short periods: a limited function is slowed evenly and not stopped for long.
Kernel documentation: admin-guide/cgroup-v1/cpu (bandwidth control), admin-guide/cgroup-v2
(cpu.max, threaded cgroups).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import FailedPrecondition
from gslice.core.proc import stat_fields
from gslice.device.tasks import pin

PREFIX = "gslice."
PERIOD_US = 5_000
QUOTA_MIN_US = 1_000  # the kernel's
PERIOD_MAX_US = 1_000_000  # the kernel's
_NAME = re.compile(re.escape(PREFIX) + r".*-(\d+)")


@dataclass(frozen=True)
class CgroupRoot:
    """Where groups can be made.

    Attributes:
        path: The process's own group.
        version: 1 or 2.
    """

    path: Path
    version: int


def find_root(proc: Path = Path("/proc/self")) -> tuple[CgroupRoot | None, str]:
    """The group below which this process may limit its threads, and a reason either way.

    Args:
        proc: The process's folder in /proc.
    """
    return find_usable(proc, "cpu", CgroupRoot, _probe)


def find_usable(
    proc: Path,
    controller: str,
    root_of: Callable[[Path, int], CgroupRoot],
    probe: Callable[[CgroupRoot], None],
) -> tuple[CgroupRoot | None, str]:
    """The first group that can be used, of version 2 before version 1, and a reason either way.

    Args:
        proc: The process's folder in /proc.
        controller: What it must control.
        root_of: Where to look, from the process's own group and the version.
        probe: Raises OSError where it cannot be used.
    """
    reasons = []
    for version in (2, 1):
        own, reason = own_group(proc, version, controller)
        if own is None:
            reasons.append(f"v{version}: {reason}")
            continue
        root = root_of(own, version)
        try:
            probe(root)
        except OSError as error:
            reasons.append(f"v{version}: {root.path}: {error.strerror}")
        else:
            return root, f"cgroup v{version} at {root.path}"
    return None, "; ".join(reasons)


def own_group(proc: Path, version: int, controller: str) -> tuple[Path | None, str]:
    """The group of a process, or why there is none.

    Args:
        proc: The process's folder in /proc.
        version: 1 or 2.
        controller: What it must control, such as `cpu`.

    Raises:
        OSError: The process has ended.
    """
    mount = None
    for line in (proc / "mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if (version == 2 and kind == "cgroup2") or (
            version == 1 and kind == "cgroup" and controller in options.split(",")
        ):
            mount = Path(where)
            break
    if mount is None:
        return None, f"the {controller} controller is not mounted"
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "" if version == 2 else controller in controllers.split(","):
            path = mount / group.lstrip("/")
            break
    else:
        return None, "this process is in no such group"
    if version == 2 and controller not in _controllers(path):
        return None, f"{path}: the {controller} controller is not there"
    return (path, "") if path.is_dir() else (None, f"{path} cannot be seen from here")


def _controllers(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (path / "cgroup.controllers").read_text().split()
    return []


def _probe(root: CgroupRoot) -> None:
    group = make_group(root, root.path / f"{PREFIX}probe-{os.getpid()}")
    try:
        _write_quota(root.version, group, PERIOD_US, PERIOD_US)
    finally:
        group.rmdir()


def group_name(function: str, maker: str) -> str:
    """What a group is called.

    Args:
        function: For whom.
        maker: Ends in the id of the process without which it is not needed.
    """
    safe = re.sub(r"[^\w.]", "_", function)[:64]
    return f"{PREFIX}{safe}-{maker}"


def make_group(root: CgroupRoot, group: Path) -> Path:
    """Makes a group for threads, or for whole processes, that have a quota.

    Raises:
        OSError: it cannot be made.
    """
    if root.version == 2:
        control = root.path / "cgroup.subtree_control"
        group.mkdir(exist_ok=True)
        try:
            (group / "cgroup.type").write_text("threaded")
            if "cpu" not in control.read_text().split():
                control.write_text("+cpu")
        except OSError:
            group.rmdir()
            raise
    else:
        group.mkdir(exist_ok=True)
    return group


def write_weight(version: int, group: Path, weight: float) -> None:
    """What a group counts against others, where cores are contended; 1: the kernel's default.

    Raises:
        OSError: the kernel refuses it.
    """
    if version == 2:
        (group / "cpu.weight").write_text(str(round(100 * weight)))
    else:
        (group / "cpu.shares").write_text(str(round(1024 * weight)))


def _write_quota(version: int, group: Path, quota_us: int | None, period_us: int) -> None:
    if version == 2:
        quota = "max" if quota_us is None else str(quota_us)
        (group / "cpu.max").write_text(f"{quota} {period_us}")
        return
    # The kernel checks each write against the other value: without a quota, any period passes.
    (group / "cpu.cfs_quota_us").write_text("-1")
    (group / "cpu.cfs_period_us").write_text(str(period_us))
    if quota_us is not None:
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))


def _read_quota(version: int, group: Path) -> tuple[int | None, int]:
    if version == 2:
        quota, period = (group / "cpu.max").read_text().split()
        return (None if quota == "max" else int(quota)), int(period)
    quota_us = int((group / "cpu.cfs_quota_us").read_text())
    return (None if quota_us < 0 else quota_us), int((group / "cpu.cfs_period_us").read_text())


def write_share(version: int, group: Path, cores: int, share_percent: float) -> int:
    """Sets the quota of a group; a share of 100 % lifts it: the cores are the limit.

    Args:
        version: 1 or 2.
        group: Which.
        cores: How many the device has.
        share_percent: Of them.

    Returns:
        The quota's period in us; 0: there is no quota.

    Raises:
        OSError: the kernel refuses it.
    """
    if share_percent >= 100:
        _write_quota(version, group, None, PERIOD_US)
        return 0
    worth = cores * share_percent / 100
    period_us = min(max(PERIOD_US, round(QUOTA_MIN_US / worth)), PERIOD_MAX_US)
    _write_quota(version, group, max(QUOTA_MIN_US, round(worth * period_us)), period_us)
    return period_us


def read_share(version: int, group: Path, cores: int) -> float:
    """The share in percent that a group's quota comes to.

    Raises:
        OSError: it cannot be read.
    """
    quota_us, period_us = _read_quota(version, group)
    return 100.0 if quota_us is None else 100.0 * quota_us / period_us / cores


class CgroupLimiter:
    """Limits an instance's compute threads by a quota.

    Groups that killed processes left are removed on the way.

    Args:
        root: Where to make the group.
        cpus: The device's cores.
        group: What to call the function in the group's name.
        weight: Against other groups, where cores are contended; 1 is the kernel's default.
        pid: Whose threads they are; None: this process's.

    Attributes:
        period_us: Of the quota; 0: there is none.

    Raises:
        FailedPrecondition: The group cannot be made.
    """

    name = "cgroup"
    live_resize = True

    def __init__(
        self,
        root: CgroupRoot,
        cpus: Sequence[int],
        group: str,
        weight: float = 1.0,
        pid: int | None = None,
    ) -> None:
        self.period_us = 0
        self._root = root
        self._cpus = set(cpus)
        remove_stale(root)  # a killed worker's group is left to the next one
        path = root.path / group_name(group, str(pid or os.getpid()))
        try:
            self._group: Path | None = make_group(root, path)
            write_weight(root.version, path, weight)
        except OSError as error:
            raise FailedPrecondition(f"cannot make cgroup {path}: {error.strerror}") from error

    def apply(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """See `Limiter.apply`. A share of 100 % lifts the quota: the cores are the limit."""
        pin(compute_tids, self._cpus)
        return self.hold(share_percent, compute_tids)

    def hold(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """Likewise, of threads that are on the device's cores already."""
        group = self._open_group()
        try:
            period_us = write_share(self._root.version, group, len(self._cpus), share_percent)
            for tid in compute_tids:
                self._move(group, tid)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot limit {group.name} to {share_percent:g} %: {error.strerror}"
            ) from error
        self.period_us = period_us
        return self.read_effective()

    def _move(self, group: Path, tid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            threads = "cgroup.threads" if self._root.version == 2 else "tasks"
            (group / threads).write_text(str(tid))

    def read_effective(self) -> float:
        """See `Limiter.read_effective`."""
        return read_share(self._root.version, self._open_group(), len(self._cpus))

    def release(self) -> None:
        """Moves the threads back and removes the group; idempotent."""
        if self._group is None:
            return
        remove_group(self._root, self._group)
        self._group = None

    def _open_group(self) -> Path:
        if self._group is None:
            raise FailedPrecondition("the share's cgroup has been released")
        return self._group


def remove_group(root: CgroupRoot, group: Path) -> None:
    """Moves what threads are left to the parent and removes the group."""
    threads = "cgroup.threads" if root.version == 2 else "tasks"
    with contextlib.suppress(FileNotFoundError):
        for tid in (group / threads).read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (root.path / threads).write_text(tid)
        group.rmdir()


def remove_stale(root: CgroupRoot | None = None) -> list[str]:
    """Removes the groups of processes that are gone.

    Args:
        root: Where they are; None: this process's own group.

    Returns:
        The names of the groups removed.
    """
    root = root or find_root()[0]
    return remove_stale_in(root.path) if root is not None else []


def remove_stale_in(path: Path) -> list[str]:
    """Likewise, of one group's own groups."""
    removed = []
    for group in path.glob(f"{PREFIX}*"):
        match = _NAME.fullmatch(group.name)
        if match is None or lives(int(match[1])):
            continue
        with contextlib.suppress(OSError):  # somebody else was quicker, or its threads still end
            group.rmdir()
            removed.append(group.name)
    return removed


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to take note."""
    try:
        return stat_fields(pid)[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
