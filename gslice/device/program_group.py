"""Control groups of a whole program that is not ours: its quota of cores, and its memory.

A worker limits its own compute threads, by their ids. Of a foreign program nobody knows the
threads, so its first process joins its groups before it becomes the program, and whatever that
starts is in them from birth. Version 1 has a group for each controller. In version 2 a process has
one group, and memory can be limited only below a group that was delegated to us, as systemd marks
it, and holds no process itself; elsewhere the cores alone are limited.
Kernel documentation: admin-guide/cgroup-v1/memory, admin-guide/cgroup-v2 (delegation, threads);
of the mark: systemd.io/CGROUP_DELEGATION.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import FailedPrecondition
from gslice.device.cgroup import (
    PREFIX,
    CgroupRoot,
    find_root,
    find_usable,
    group_name,
    make_group,
    read_share,
    remove_stale_in,
    write_share,
    write_weight,
)

_LIMIT_FILE = {1: "memory.limit_in_bytes", 2: "memory.max"}
# Without these a program that reaches its limit is swapped out and goes on taking.
_SWAP_FILE = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}
_CONTROLLERS = {"cpu", "memory"}
_MARKS = ("user.delegate", "trusted.delegate")


@functools.cache
def find_memory_root(proc: Path = Path("/proc/self")) -> tuple[CgroupRoot | None, str]:
    """Below what group the memory of a program can be limited, and a reason either way.

    Looked for once: a process stays in its group.

    Args:
        proc: This process's folder in /proc.
    """
    return find_usable(proc, "memory", _root_of, _probe)


def remove_stale_programs() -> list[str]:
    """Removes the empty memory groups of which the daemon is gone; returns their names."""
    root, _ = find_memory_root()
    return remove_stale_in(root.path) if root is not None else []


def _root_of(own: Path, version: int) -> CgroupRoot:
    """In version 2 ours holds this process, and so can hand no memory on."""
    return CgroupRoot(own.parent if version == 2 else own, version)


def _ailment(path: Path) -> str:
    """Why no groups of ours can be made in a group of version 2; empty: they can.

    Root may write anywhere, so that alone says nothing; and nothing is changed to find out.
    """
    if not any(_mark(path, name) == b"1" for name in _MARKS):
        return "it is not delegated (no user.delegate or trusted.delegate on it)"
    lacking = _CONTROLLERS - set((path / "cgroup.controllers").read_text().split())
    if lacking:
        return f"it has no controller {', '.join(sorted(lacking))}"
    control = path / "cgroup.subtree_control"
    if not (os.access(path, os.W_OK) and os.access(control, os.W_OK)):
        return "it cannot be written"
    if _lacking(path) and (path / "cgroup.procs").read_text().strip():
        return "it holds processes itself, so it can hand no memory on"
    return ""


def _mark(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:  # it has none, or such marks are not for us to see
        return b""


def _lacking(path: Path) -> set[str]:
    """The controllers that a group of version 2 does not hand on yet."""
    return _CONTROLLERS - set((path / "cgroup.subtree_control").read_text().split())


def _probe(root: CgroupRoot) -> None:
    """Version 1, whose groups are in our own, is tried; version 2 is looked at."""
    if root.version == 2:
        if ailment := _ailment(root.path):
            raise OSError(errno.EPERM, ailment)
        return
    group = _make_memory_group(root, f"{PREFIX}probe-{os.getpid()}")
    try:
        (group / _LIMIT_FILE[root.version]).write_text(str(1 << 30))
    finally:
        group.rmdir()


def _make_memory_group(root: CgroupRoot, name: str) -> Path:
    if root.version == 2 and (lacking := _lacking(root.path)):
        control = root.path / "cgroup.subtree_control"
        control.write_text(" ".join(f"+{controller}" for controller in sorted(lacking)))
    group = root.path / name
    group.mkdir(exist_ok=True)
    return group


def limit_memory(version: int, group: Path, limit_bytes: int) -> None:
    """Limits what a group takes of the memory, and gives it no swap beside it.

    Raises:
        OSError: the kernel refuses it.
    """
    (group / _LIMIT_FILE[version]).write_text(str(limit_bytes))
    swap = group / _SWAP_FILE[version]
    if swap.exists():  # not without swap accounting
        swap.write_text(str(limit_bytes if version == 1 else 0))  # version 1 counts both together


@dataclass(frozen=True)
class ProgramGroup:
    """The groups of one program; what has none is not limited.

    Attributes:
        cpu: Path of that which limits its cores; empty: nothing does.
        cpu_version: 1 or 2.
        memory: Path of that which limits its memory; empty: nothing does.
    """

    cpu: str = ""
    cpu_version: int = 0
    memory: str = ""

    @classmethod
    def make(cls, function: str, weight: float, memory_bytes: int) -> ProgramGroup:
        """Makes the groups, empty, as far as this node has them.

        Args:
            function: For whom.
            weight: Against other groups, where cores are contended.
            memory_bytes: The limit of its memory; 0: none.

        Raises:
            FailedPrecondition: one cannot be made.
        """
        name = group_name(function, f"{secrets.token_hex(4)}-{os.getpid()}")
        cores = find_root()[0]
        memory = find_memory_root()[0] if memory_bytes else None
        group = cls()
        try:
            if memory is not None:
                path = _make_memory_group(memory, name)
                group = cls(memory=str(path))
                limit_memory(memory.version, path, memory_bytes)
            if cores is not None:
                if memory is not None and memory.version == cores.version == 2:
                    path = Path(group.memory)
                else:
                    path = make_group(cores, cores.path / name)
                group = cls(str(path), cores.version, group.memory)
                write_weight(cores.version, path, weight)
        except OSError as error:
            group.release()
            raise FailedPrecondition(
                f"function {function}: its cgroup {name} cannot be made: {error.strerror}",
                hint="`gslice doctor` says what limits work here",
            ) from error
        return group

    @property
    def paths(self) -> list[Path]:
        """Of all, each once."""
        return [Path(path) for path in dict.fromkeys((self.cpu, self.memory)) if path]

    @property
    def entrances(self) -> list[str]:
        """Files that take the id of a process which joins, with all that it will start."""
        return [str(path / "cgroup.procs") for path in self.paths]

    def set_share(self, cores: int, share_percent: float) -> None:
        """Sets the quota of its cores.

        Args:
            cores: How many the device has.
            share_percent: Of them.

        Raises:
            FailedPrecondition: there is no such group, or the kernel refuses it.
        """
        self._check_cpu()
        try:
            write_share(self.cpu_version, Path(self.cpu), cores, share_percent)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot limit {self.cpu} to {share_percent:g} %: {error.strerror}"
            ) from error

    def read_share(self, cores: int) -> float:
        """The share in percent that is in force.

        Args:
            cores: How many the device has.

        Raises:
            FailedPrecondition: there is no such group.
        """
        self._check_cpu()
        try:
            return read_share(self.cpu_version, Path(self.cpu), cores)
        except OSError as error:
            raise FailedPrecondition(f"cannot read {self.cpu}: {error.strerror}") from error

    def processes(self) -> set[int]:
        """The ids of all processes that are in them."""
        found: set[int] = set()
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                found |= _processes_in(path)
        return found

    def release(self) -> bool:
        """Removes them; False: one is not empty yet, and stays."""
        for path in self.paths:
            with contextlib.suppress(OSError):
                path.rmdir()
        return not any(path.exists() for path in self.paths)

    def _check_cpu(self) -> None:
        if not self.cpu:
            raise FailedPrecondition(
                "there is no cgroup that could limit its cores",
                hint="set `limiter: threads`, or delegate a cgroup with the cpu controller",
            )


def _processes_in(group: Path) -> set[int]:
    try:
        return {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    except FileNotFoundError:
        raise
    except OSError:  # of a group for threads, version 2 names only those
        threads = (group / "cgroup.threads").read_text().split()
        return {pid for tid in threads if (pid := _process_of(int(tid)))}


def _process_of(tid: int) -> int:
    """The process of a thread; 0: it has ended."""
    try:
        lines = Path(f"/proc/{tid}/status").read_bytes().split(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"Tgid:")), 0)
