"""Log files of children.

A child writes straight into its file, opened for appending, so that it can log while no daemon
runs. The daemon bounds the file from outside: it keeps a copy of the newest part and truncates.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from gslice.core.logs import FILE_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DAEMON_LOG_NAME = "daemon"
SPARES_LOG_NAME = "spares"
TEXT_MAX_CHARS = 1000
_TAIL_BYTES = 64 << 10
_FOLLOW_PERIOD_S = 0.1


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A log's descriptor, to append to."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, oldest first; none if there is no file."""
    if count <= 0:
        return []
    text = _tail(path, _TAIL_BYTES).decode(errors="replace")
    return text.splitlines()[-count:]


def last_line(path: Path) -> str:
    """The last line that is not blank; empty if there is none."""
    lines = (line.strip() for line in reversed(last_lines(path, 50)))
    return shortened(_message(next(filter(None, lines), "")))


def _message(line: str) -> str:
    """What a line says, if it is one of JSON; else the line."""
    try:
        found = json.loads(line) if line.startswith("{") else None
    except ValueError:
        found = None
    return str(found["message"]) if isinstance(found, dict) and "message" in found else line


def shortened(text: str, max_chars: int = TEXT_MAX_CHARS) -> str:
    """What a child said, cut to what fits into a control message and a status."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 4]} ..."


async def follow(path: Path, count: int) -> AsyncIterator[str]:
    """The last lines of a log, then those that are added, without end."""
    end = _size(path)
    start = max(0, end - _TAIL_BYTES)
    *lines, rest = _part(path, start, end - start).split(b"\n")
    lines = lines[-count:] if count > 0 else []
    while True:
        for line in lines:
            yield line.decode(errors="replace")
        size = _size(path)
        if size < end:  # it was cut
            end, rest = 0, b""
        *lines, rest = (rest + _part(path, end, size - end)).split(b"\n")
        end = size
        await asyncio.sleep(_FOLLOW_PERIOD_S)  # files that grow tell asyncio nothing


def rotate(path: Path, max_bytes: int = FILE_MAX_BYTES, keep: int = 1) -> bool:
    """Bounds a log: past `max_bytes` its contents move to `<name>.1`, and it starts anew.

    What is written between the copy and the truncation is lost, which a log can bear; writers need
    not be told.

    Args:
        path: The log.
        max_bytes: Its size, and that of each that was moved away.
        keep: How many of these there are, the newest as `.1`; what is older goes.

    Returns:
        True if it was cut.

    Raises:
        OSError: the contents could not be moved; it was cut all the same, if it can be.
    """
    if _size(path) <= max_bytes:
        return False
    *older, old = (path.with_name(f"{path.name}.{number}") for number in range(keep, 0, -1))
    try:
        for above, below in itertools.pairwise((*older, old)):
            with contextlib.suppress(FileNotFoundError):
                below.replace(above)
        kept = _tail(path, max_bytes)
        with opened_log(old, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(kept)
    finally:
        with opened_log(path, os.O_WRONLY) as file:
            file.truncate(0)  # above all on a full disk
    return True


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _tail(path: Path, size: int) -> bytes:
    end = _size(path)
    return _part(path, max(0, end - size), size)


def _part(path: Path, start: int, size: int) -> bytes:
    if size <= 0:
        return b""
    try:
        with opened_log(path) as file:
            file.seek(start)
            return file.read(size)
    except FileNotFoundError:
        return b""


def opened_log(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """A log, if it is a plain file: MPS's lie where its user could put a link, or a pipe.

    Raises:
        OSError: it is not there, or something else.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "wb")
