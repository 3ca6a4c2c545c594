"""Who workers run as, where that is not who the daemon runs as."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

READ, PASS = 5, 1  # a directory: its names may be read, and it may be passed through; that alone
_ACCESS_LIST = "system.posix_acl_access"
_LIST_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20  # linux/posix_acl.h
_NOBODY = 0xFFFFFFFF


@dataclass(frozen=True)
class User:
    """A user of the machine that a device's workers run as.

    Attributes:
        name: As people know it.
        uid: Its number.
        gid: Of its group.
        groups: All others that its processes have: those of the device's files.
        home: A directory of its own.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What tells its processes who they are. Nothing is imported from its home."""
        return {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "PYTHONNOUSERSITE": "1",
        }


def let_in(directory: Path, uids: Collection[int], may: int = PASS) -> None:
    """Lets these users into a directory that is its owner's alone, beside whom it lets in already.

    Args:
        directory: Whose files and directories say themselves who may read them.
        uids: The users.
        may: READ or PASS.

    Raises:
        OSError: its file system keeps no lists of users.
    """
    users = {**_users_of(directory), **dict.fromkeys(uids, may)}
    owner = directory.stat().st_mode >> 6 & 7
    entries = [
        (_OWNER, owner, _NOBODY),
        *((_USER, users[uid], uid) for uid in sorted(users)),
        (_GROUP, 0, _NOBODY),
        (_MASK, READ | PASS, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    ]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(directory, _ACCESS_LIST, struct.pack("<I", _LIST_VERSION) + packed)


def _users_of(directory: Path) -> dict[int, int]:
    """Whom a directory's list names, with what each may."""
    try:
        packed = os.getxattr(directory, _ACCESS_LIST)
    except OSError:  # it has none
        return {}
    entries = struct.iter_unpack("<HHI", packed[4:])
    return {number: may for tag, may, number in entries if tag == _USER}
