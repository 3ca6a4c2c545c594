"""Where a node keeps its state, and which cores it may use."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from gslice.core.errors import InvalidArgument

SOCKET_PATH_BYTES_MAX = 107  # sun_path, less its closing zero
SOCKET_NAME_BYTES_MAX = len("/run/w-0123456789ab.sock")  # the longest that the daemon makes


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Where state belongs when nobody says: $GSLICE_STATE_DIR, else the user's state directory."""
    given = environ.get("GSLICE_STATE_DIR")
    if given:
        return Path(given).absolute()
    home = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(home).absolute() / "gslice"


def check_state_dir(state_dir: Path) -> None:
    """Refuses a directory whose sockets' names would be too long for the kernel.

    Raises:
        InvalidArgument: it is too long.
    """
    length, most = len(os.fsencode(state_dir)), SOCKET_PATH_BYTES_MAX - SOCKET_NAME_BYTES_MAX
    if length > most:
        raise InvalidArgument(
            f"{str(state_dir)!r} has {length} bytes, but at most {most} leave room for the names of"
            " Unix sockets; choose a shorter directory"
        )


def parse_cores(text: str) -> list[int]:
    """Cores of `0-3,6`, ascending.

    Raises:
        InvalidArgument: it is no list of cores.
    """
    cores: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidArgument(f"{text!r} is not a list of cores; write it as 0-3,6")
        low, high = int(first), int(last or first)
        if low > high or high >= 4096:
            raise InvalidArgument(f"{text!r} is not a range of cores; write it as 0-3")
        cores.update(range(low, high + 1))
    return sorted(cores)


def format_cores(cores: Collection[int]) -> str:
    """The text of `parse_cores`, with ranges: `0-3,6`."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
