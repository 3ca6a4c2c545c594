"""What a process gives up before it touches anything of a client or of a model.

Run by its path it is the way into a program of another user: it becomes that user, then that
program.

    python -I -S hardening.py UID GID GROUPS PROGRAM [ARGUMENT...]

GROUPS are numbers with commas between them. The program's variables come with `THEN` before their
names, so that none of them is in force while this process still has the rights of who started it.
It imports nothing of gslice: it is there for milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

THEN = "GSLICE_THEN_"
NOT_RUN = 126  # as a shell has it
FILES_MAX = 65536
TASKS_MAX = 16384  # of a user that gslice's processes have to themselves
_PR_SET_DUMPABLE = 4  # of linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_NICE_MIN = -5  # a high priority's threads; `RLIMIT_NICE` counts from 20 down
_CAPABILITIES = ("CapPrm", "CapEff", "CapAmb")


def harden(files_max: int | None = None, *, secluded: bool = False) -> None:
    """Gives up what this process and its children never need.

    No program that is set-user-id gives them more than they have, and no crash writes the memory
    of requests, weights or keys to a file.

    Args:
        files_max: Most descriptors that it may have open; None: as many as it may now.
        secluded: Nobody but root may look into it, its own user included.

    Raises:
        OSError: the kernel refuses.
    """
    # 0 keeps files from being written, but not what core_pattern pipes to; 1 keeps both (core(5)).
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = 1 if hard == resource.RLIM_INFINITY else min(hard, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    if files_max is not None:
        _limit(resource.RLIMIT_NOFILE, files_max)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    if secluded:
        _prctl(_PR_SET_DUMPABLE, 0, "dumpable")


def become(uid: int, gid: int, groups: Iterable[int]) -> None:
    """Makes all threads of this process another user's, for good.

    What pumps and pinned memory need stays: a priority above others', memory that is locked.

    Args:
        uid: The user.
        gid: Its group.
        groups: All others that it is to have.

    Raises:
        OSError: the kernel refuses.
        PermissionError: something of what it had is left.
    """
    for which, limit in (
        (resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY),
        (resource.RLIMIT_NICE, 20 - _NICE_MIN),
        (resource.RLIMIT_RTPRIO, 1),
    ):
        with contextlib.suppress(ValueError, OSError):  # it may not: as far as it could before
            resource.setrlimit(which, (limit, limit))
    _limit(resource.RLIMIT_NPROC, TASKS_MAX)
    os.umask(0o077)
    os.setgroups(sorted(groups))
    os.setresgid(gid, gid, gid)
    if os.geteuid() != 0:  # only who leaves 0 loses all capabilities, and in all threads
        os.setresuid(0, 0, 0)
    os.setresuid(uid, uid, uid)
    harden(FILES_MAX, secluded=True)
    _check_gone(uid, gid)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process of another user gets: none that name secrets or a home."""
    return {name: value for name, value in environment.items() if not _is_private(name)}


def entrance(
    uid: int, gid: int, groups: Sequence[int], command: Sequence[str], wanted: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """How a program of another user is started: the command line and its environment.

    Args:
        uid: As of `become`.
        gid: Likewise.
        groups: Likewise.
        command: The program and its arguments.
        wanted: All of its environment.
    """
    numbers = (str(uid), str(gid), ",".join(map(str, groups)))
    line = [sys.executable, "-I", "-S", __file__, *numbers, *command]
    return line, {**os.environ, **{THEN + name: value for name, value in wanted.items()}}


def main(arguments: Sequence[str]) -> int:
    """Becomes the user, then the program; returns only if that fails."""
    uid, gid, groups, *command = arguments
    wanted = {
        name.removeprefix(THEN): value
        for name, value in os.environ.items()
        if name.startswith(THEN)
    }
    try:
        become(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, wanted)
    except OSError as error:
        print(f"user {uid} cannot run {command[0]}: {error.strerror or error}", file=sys.stderr)
    return NOT_RUN


def _is_private(name: str) -> bool:
    begins = ("AWS_", "AZURE_", "GOOGLE_", "HF_", "OTEL_", "XDG_", "SSH_", "SUDO_", "LISTEN_")
    ends = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD", "_CREDENTIALS", "_HEADERS")
    others = (
        "HOME",
        "USER",
        "LOGNAME",
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
        "GSLICE_CACHE_DIR",
    )
    return name.startswith((*begins, THEN)) or name.endswith(ends) or name in others


def _limit(which: int, most: int) -> None:
    """Lowers a limit; what is lower stays."""
    soft, hard = (
        most if limit == resource.RLIM_INFINITY else min(limit, most)
        for limit in resource.getrlimit(which)
    )
    resource.setrlimit(which, (soft, hard))


def _prctl(option: int, value: int, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _check_gone(uid: int, gid: int) -> None:
    """Each thread has identities and capabilities of its own: no one's may be left."""
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text(errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        identities = {*map(int, fields["Uid"].split())}, {*map(int, fields["Gid"].split())}
        if identities != ({uid}, {gid}) or any(int(fields[name], 16) for name in _CAPABILITIES):
            raise PermissionError(1, f"thread {task.name} keeps rights of the user that it was")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
