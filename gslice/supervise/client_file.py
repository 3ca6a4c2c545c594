"""A client's file: which ones may be opened, and how that is done without falling for one.

Whoever reaches the gRPC port names the file, so the name proves nothing: what has been opened does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, InvalidArgument, NotFound, PermissionDenied
from gslice.ipc.process import start_ticks

if TYPE_CHECKING:
    from gslice.core.config import ClientMemoryConfig
    from gslice.ipc.messages import ClientRegion

NAME_BYTES_MAX = 256
_SHM_DIR = "/dev/shm/"
_PROC_KEY = re.compile(r"/proc/([1-9][0-9]{0,9})/fd/([0-9]{1,9})")
_PRIVATE_NAME = re.compile(r"gslice-client:[0-9a-f]{32}")
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
    """
    if not region.name or len(region.name.encode()) > NAME_BYTES_MAX:
        raise InvalidArgument(f"a region's name must have 1 to {NAME_BYTES_MAX} bytes")
    try:
        if _PROC_KEY.fullmatch(region.key):
            return _open_private(region, config)
        return region, _open_named(region, config)
    except OSError as error:
        raise _refusal(region, error) from error


def _open_named(region: ClientRegion, config: ClientMemoryConfig) -> int:
    name = region.key.lstrip("/")  # as shm_open does
    if not f"/{name}".startswith(config.prefix):
        raise PermissionDenied(
            f"region {region.name!r}: key {region.key!r} does not begin with {config.prefix!r}",
            hint="name it so, or set node.client_memory.prefix",
        )
    if "/" in name or "\0" in name or len(name.encode()) > os.pathconf(_SHM_DIR, "PC_NAME_MAX"):
        raise InvalidArgument(f"region {region.name!r}: key {region.key!r} names no shared memory")
    fd = os.open(_SHM_DIR + name, _FLAGS | os.O_NOFOLLOW)
    return _checked(fd, region, config)


def _open_private(region: ClientRegion, config: ClientMemoryConfig) -> tuple[ClientRegion, int]:
    """A client's memfd, which has the region's name, that nobody can guess, as its own.

    By its descriptor's number alone, anybody could name another client's, or a function's segment.
    """
    match = _PROC_KEY.fullmatch(region.key)
    assert match is not None
    pid = int(match[1])
    region = replace(region, pid=pid, started=start_ticks(pid))
    target = f"/memfd:{region.name} (deleted)"
    denied = PermissionDenied(f"region {region.name!r}: {region.key} is not its memory")
    if not _PRIVATE_NAME.fullmatch(region.name) or str(Path(region.key).readlink()) != target:
        raise denied  # before anything is opened: to open some files is to use them
    fd = _checked(os.open(region.key, _FLAGS), region, config)
    try:
        if str(Path(f"/proc/self/fd/{fd}").readlink()) != target:  # another has the number by now
            raise denied
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise InvalidArgument(f"region {region.name!r} is not sealed against shrinking")
    except BaseException:
        os.close(fd)
        raise
    return region, fd


def _checked(fd: int, region: ClientRegion, config: ClientMemoryConfig) -> int:
    try:
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
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refusal(region: ClientRegion, error: OSError) -> GsliceError:
    text = f"region {region.name!r}: {region.key!r}: {error.strerror}"
    if error.errno == errno.ENOENT:
        return NotFound(text)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(text)
    return InvalidArgument(text)
