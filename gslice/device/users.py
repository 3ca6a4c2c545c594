"""The users that the workers of a node's devices run as: who they are, and what they must reach."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition
from gslice.core.hardening import entrance, inherited
from gslice.core.users import READ, User, let_in

if TYPE_CHECKING:
    from gslice.core.config.types import DeviceConfig, NodeConfig

AUTO, NONE = "auto", "none"
PREFIX = "gslice-"
FOLDER = "users"
"""In the state directory: the homes of users."""
_SAMPLES = "warmup"
_SHARED = ("mps", FOLDER, _SAMPLES)  # in the state directory: what workers must get through
_DEV = Path("/dev")
_GPU_FILES = ("nvidia*", "nvidia-caps/*", "nvhost*", "nvmap")
_CAPABILITIES = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID"}
_TRIAL = """
import os, sys, gslice.core.errors, gslice._native
os.chdir(os.environ["HOME"])
open_to_it = [path for path in sys.argv[1:] if os.access(path, os.R_OK)]
sys.exit(f"it may read {open_to_it[0]}" if open_to_it else 0)
"""
_TRIAL_TIMEOUT_S = 60.0


def user_name(device: str) -> str:
    """What the user of a device is called, where node.yaml does not say."""
    return PREFIX + re.sub(r"[^a-z0-9]+", "-", device.lower())


def making(name: str) -> str:
    """The command that makes a user."""
    return f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}"


def worker_users(devices: Mapping[str, DeviceConfig]) -> dict[str, User]:
    """Who workers run as, by device; of those that are not there they run as this process's user.

    Without a word in node.yaml it is as the machine was set up: where this process may change users
    and one of those that devices are given has been made, all of them must be there.

    Raises:
        FailedPrecondition: a user is missing, or this process may not become it.
    """
    own, lacking = os.geteuid(), lacking_capabilities()
    named = {name: each for name, each in devices.items() if each.user not in (AUTO, NONE)}
    found = {name: _user(name, device.user, device) for name, device in named.items()}
    found = {name: user for name, user in found.items() if user.uid != own}
    if lacking:
        for name, user in found.items():
            raise FailedPrecondition(
                f"devices.{name}.user: this daemon may not run workers as {user.name}, for it has"
                f" no CAP_{lacking[0]}",
                hint="run it as root, or take the user out",
            )
        return {}
    waiting = [name for name, device in devices.items() if device.user == AUTO]
    if found or any(_exists(user_name(name)) for name in waiting):
        found |= {name: _user(name, user_name(name), devices[name]) for name in waiting}
    return found


def lacking_capabilities() -> list[str]:
    """What this process would need to run workers as other users, and has not."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    held = int(match[1], 16) if match else 0
    return [name for bit, name in _CAPABILITIES.items() if not held >> bit & 1]


def prepare(node: NodeConfig, users: Mapping[str, User]) -> dict[str, User]:
    """Gives users what they need of the state directory, and keeps them from the rest.

    Args:
        node: Settings of the daemon.
        users: As of `worker_users`.

    Returns:
        The users, each with a home.

    Raises:
        FailedPrecondition: they could not run here.
    """
    if not users:
        return {}
    state_dir = node.state_dir
    for entry in state_dir.iterdir():
        if entry.name not in _SHARED and not entry.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # the database's own files come and go
                entry.chmod(stat.S_IMODE(entry.stat().st_mode) & 0o700)
    try:
        let_in(state_dir, {user.uid for user in users.values()})
    except OSError as error:
        raise FailedPrecondition(
            f"workers of other users cannot be let into {state_dir}: {error.strerror}",
            hint="choose a node.state_dir whose file system has access control lists",
        ) from error
    for name in ("mps", FOLDER):
        (state_dir / name).mkdir(exist_ok=True)
        (state_dir / name).chmod(0o711)
    for path in (state_dir / _SAMPLES, *(state_dir / _SAMPLES).rglob("*")):
        if path.exists():
            path.chmod(0o755 if path.is_dir() else 0o644)
    housed = {name: _housed(state_dir / FOLDER, user) for name, user in users.items()}
    secrets = [node.tls.key] if node.tls is not None else []
    secrets += [str(node.access.key_file)] if node.access.key_file is not None else []
    _try({user.uid: user for user in housed.values()}, secrets)
    return housed


def let_read_models(user: User, cache: Path, paths: Iterable[str]) -> None:
    """Lets a user read those entries of the model cache in which these files are, and no others."""
    for entry in {Path(path).parent for path in paths if path}:
        if entry.parent == cache:
            with contextlib.suppress(OSError):  # what it may not read its load will tell
                let_in(cache, {user.uid})
                for directory in (entry, *(path for path in entry.rglob("*") if path.is_dir())):
                    let_in(directory, {user.uid}, READ)


def owned_by(directory: Path, user: User | None) -> Path:
    """A directory for a user's processes alone; None: for this one's."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is not None:
        os.chown(directory, user.uid, user.gid)
        directory.chmod(0o700)
    return directory


def _housed(folder: Path, user: User) -> User:
    return replace(user, home=str(owned_by(folder / user.name, user)))


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _user(device: str, name: str, config: DeviceConfig) -> User:
    groups = gpu_groups() if config.kind == "cuda" else ()
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if name.isdecimal():  # as in images, where numbers are all there is
            return User(name, int(name), int(name), groups)
        raise FailedPrecondition(
            f"devices.{device}.user: there is no user {name}",
            hint=f"`{making(name)}`, or `user: none` to run workers as the daemon's user",
        ) from None
    if entry.pw_uid == 0 and os.geteuid() != 0:
        raise FailedPrecondition(f"devices.{device}.user: workers never become root")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def gpu_groups() -> tuple[int, ...]:
    """The groups without which the device files of GPUs are not for everybody; never root's."""
    groups = set()
    for found in (path.stat() for pattern in _GPU_FILES for path in _DEV.glob(pattern)):
        open_to_all = found.st_mode & 0o006 == 0o006
        if stat.S_ISCHR(found.st_mode) and not open_to_all and found.st_mode & 0o060 == 0o060:
            groups.add(found.st_gid)
    return tuple(sorted(groups - {0}))


def _try(users: Mapping[int, User], secrets: Sequence[str]) -> None:
    """Has each user import gslice and enter its home: what is closed to it, or open, shows now.

    Args:
        users: By number.
        secrets: Files that none may read.

    Raises:
        FailedPrecondition: one cannot.
    """
    trials = []
    for user in users.values():
        wanted = inherited(os.environ) | user.environment
        command = [sys.executable, "-P", "-c", _TRIAL, *secrets]
        line, environment = entrance(user.uid, user.gid, user.groups, command, wanted)
        trials.append(
            subprocess.Popen(
                line,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [_said(trial) for trial in trials]
    for user, trial, text in zip(users.values(), trials, said, strict=True):
        if trial.returncode != 0:
            reason = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise FailedPrecondition(
                f"workers cannot run as {user.name}: {reason}",
                hint="gslice and node.state_dir must be where it may go, as /opt/gslice and"
                " /var/lib/gslice are, and keys where it may not",
            )


def _said(trial: subprocess.Popen[str]) -> str:
    """What a trial wrote, once it has ended; one that hangs is ended."""
    try:
        return trial.communicate(timeout=_TRIAL_TIMEOUT_S)[1]
    except subprocess.TimeoutExpired:
        trial.kill()
        trial.communicate()
        return f"it did not start within {_TRIAL_TIMEOUT_S:g} s"
