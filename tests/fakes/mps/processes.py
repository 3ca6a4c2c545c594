"""The counters of the processes that use the fake GPU: the files that machine/table.cpp writes."""

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

RECORD = struct.Struct("<56sQ")


def read_counters(path: Path) -> dict[str, int]:
    """Of one process, living or dead; nothing for one that never called cuInit."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    counters = {}
    for name, value in RECORD.iter_unpack(data):
        if not name[0]:
            break
        counters[name.rstrip(b"\0").decode()] = value
    return counters


def write_counter(path: Path, name: str, value: int) -> None:
    """Sets a word that the process has made already, which it then sees at once.

    Raises:
        KeyError: It has made none of this name.
    """
    index = list(read_counters(path)).index(name) if name in read_counters(path) else None
    if index is None:
        raise KeyError(f"{path} has no {name}")
    with path.open("r+b") as file:
        file.seek(index * RECORD.size + 56)
        file.write(struct.pack("<Q", value))


def is_alive(path: Path) -> bool:
    """Whether the process that made the file still holds its lock on it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def parse_fields(line: str) -> dict[str, str]:
    """A record of the fakes' files and messages: key=value between tabs."""
    return dict(pair.split("=", 1) for pair in line.rstrip("\n").split("\t") if "=" in pair)


def read_records(path: Path) -> list[dict[str, str]]:
    """The records of a file, one a line; none of a file that is not there."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [parse_fields(line) for line in lines if line]
