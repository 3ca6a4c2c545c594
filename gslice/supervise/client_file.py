"""A client's file: which ones may be opened, and how that is done without falling for one.

Whoever reaches the gRPC port names the file, so the name proves nothing: what has been opened does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import (
    GsliceError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from gslice.ipc.process import start_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gslice.core.config import ClientMemoryConfig
    from gslice.ipc.messages import ClientRegion

NAME_BYTES_MAX = 256
_SHM_DIR = "/dev/shm/"
_PROC_KEY = re.compile(r"/proc/([1-9][0-9]{0,9})/fd/([0-9]{1,9})")
_PRIVATE_NAME = re.compile(r"(gslice-client:[0-9a-f]{4})[0-9a-f]{28}")
# A link out of the directory, a FIFO or a terminal must neither lead away nor hold anybody up.
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_region(region: ClientRegion, config: ClientMemoryConfig) -> tuple[ClientRegion, int]:
    """Opens a region's file.

    Args:
        region: As a client says it.
        config: What may be opened.

    Returns:
        The region with the process that it ends with, and a descriptor, which is the caller's.

    Raises:
        InvalidArgument: the file cannot be one of a client's memory, or ends before the region.
        PermissionDenied: it is not one that may be opened.
        NotFound: it is not there.
        ResourceExhausted: the daemon is short of descriptors.
    """
    with refusing(region):
        _check_name(region, config)  # before anything is opened: to open some files is to use them
        if (match := _PROC_KEY.fullmatch(region.key)) is not None:
            pid = int(match[1])
            region = replace(region, pid=pid, started=start_ticks(pid))
            _check_memfd(region, Path(region.key))
            fd = os.open(region.key, _FLAGS)
        else:
            fd = os.open(_SHM_DIR + _file_name(region), _FLAGS | os.O_NOFOLLOW)
    try:
        check_region(region, fd, config)
    except BaseException:
        os.close(fd)
        raise
    return region, fd


def check_region(region: ClientRegion, fd: int, config: ClientMemoryConfig) -> None:
    """Checks a region whose file is open already: by what has been opened.

    Args:
        region: With the process that it ends with.
        fd: Its file.
        config: What may be used.

    Raises:
        InvalidArgument: the file cannot be one of a client's memory, or ends before the region.
        PermissionDenied: it is not one that may be used.
    """
    with refusing(region):
        _check_name(region, config)
        file = os.fstat(fd)
        if not stat.S_ISREG(file.st_mode):
            raise InvalidArgument(f"region {region.name!r}: {region.key!r} is no regular file")
        if file.st_uid != config.owner_uid:
            raise PermissionDenied(
                f"region {region.name!r}: {region.key!r} is of user {file.st_uid}, not of"
                f" {config.owner_uid}",
                hint="start the client as that user, or set node.client_memory.owner",
            )
        end = region.offset_bytes + region.size_bytes
        if region.size_bytes == 0 or end > file.st_size:
            raise InvalidArgument(
                f"region {region.name!r}: {region.size_bytes} bytes from byte"
                f" {region.offset_bytes} on are not in {region.key!r}, which has {file.st_size}"
            )
        if not _PROC_KEY.fullmatch(region.key):
            return
        _check_memfd(region, Path(f"/proc/self/fd/{fd}"))  # another may have the number by now
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise InvalidArgument(f"region {region.name!r} is not sealed against shrinking")


@contextlib.contextmanager
def refusing(region: ClientRegion) -> Iterator[None]:
    """What the system says against a region's file is said of the region."""
    try:
        yield
    except OSError as error:
        raise _refusal(region, error) from error


def without_secrets(text: str) -> str:
    """A text for others: of private names, only what tells them apart."""
    return _PRIVATE_NAME.sub(r"\1...", text)


def _check_name(region: ClientRegion, config: ClientMemoryConfig) -> None:
    if not region.name or len(region.name.encode()) > NAME_BYTES_MAX:
        raise InvalidArgument(f"a region's name must have 1 to {NAME_BYTES_MAX} bytes")
    if _PROC_KEY.fullmatch(region.key):
        return
    name = _file_name(region)
    if not f"/{name}".startswith(config.prefix):
        raise PermissionDenied(
            f"region {region.name!r}: key {region.key!r} does not begin with {config.prefix!r}",
            hint="name it so, or set node.client_memory.prefix",
        )
    if "/" in name or "\0" in name or len(name.encode()) > os.pathconf(_SHM_DIR, "PC_NAME_MAX"):
        raise InvalidArgument(f"region {region.name!r}: key {region.key!r} names no shared memory")


def _check_memfd(region: ClientRegion, link: Path) -> None:
    """A client's memfd has the region's name, that nobody can guess, as its own.

    By its descriptor's number alone, anybody could name another client's, or a function's segment.
    """
    target = f"/memfd:{region.name} (deleted)"
    if not _PRIVATE_NAME.fullmatch(region.name) or str(link.readlink()) != target:
        raise PermissionDenied(f"region {region.name!r}: {region.key} is not its memory")


def _file_name(region: ClientRegion) -> str:
    return region.key.lstrip("/")  # as shm_open does


def _refusal(region: ClientRegion, error: OSError) -> GsliceError:
    text = f"region {region.name!r}: {region.key!r}: {error.strerror}"
    if error.errno == errno.ENOENT:
        return NotFound(text)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(text)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceExhausted(text)
    return InvalidArgument(text)
