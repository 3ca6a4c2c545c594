"""`node.client_memory`: from its shape in the file to what the daemon goes by."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from gslice.core.config.document import Problem
from gslice.core.config.types import ClientMemoryConfig

if TYPE_CHECKING:
    from gslice.core.config import model


def client_memory(
    memory: model.ClientMemory | None, problems: list[Problem]
) -> ClientMemoryConfig | None:
    """The setting, with its owner as a number.

    Args:
        memory: As in the file; None: it is not there.
        problems: Gets one if there is no such user.
    """
    if memory is None:
        return None
    owner_uid = os.geteuid()
    if isinstance(memory.owner, int):
        owner_uid = memory.owner
    elif memory.owner is not None:
        try:
            owner_uid = pwd.getpwnam(memory.owner).pw_uid
        except KeyError:
            path = ("node", "client_memory", "owner")
            problems.append(Problem(path, f"there is no user {memory.owner!r}"))
    return ClientMemoryConfig(memory.prefix, memory.max, owner_uid)
