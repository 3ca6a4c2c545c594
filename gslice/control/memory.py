"""Whether what somebody needs fits into a memory, with the arithmetic in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.figures import megabytes

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Room:
    """What is left of a memory.

    Attributes:
        where: `cuda:0`, or `the node`.
        free_bytes: What nobody has, and nobody was promised.
        limit_bytes: Of what; 0: of all that there is.
    """

    where: str
    free_bytes: int
    limit_bytes: int = 0

    def __str__(self) -> str:
        free = f"{self.where} has {megabytes(max(0, self.free_bytes))} free"
        return f"{free} of its limit of {megabytes(self.limit_bytes)}" if self.limit_bytes else free


def refusal(parts: Mapping[str, int], room: Room, circumstances: str) -> str:
    """Why something does not fit, such as `needs 3.1 GiB (context ... + weights ...); ...`.

    Args:
        parts: What it needs, by what for, in bytes.
        room: Where.
        circumstances: Such as `shadow beside the primary`; may be empty.

    Returns:
        One line; empty: it fits.
    """
    if sum(parts.values()) <= room.free_bytes:
        return ""
    told = f"needs {sizes(parts)}"
    return f"{told}, {circumstances}; {room}" if circumstances else f"{told}; {room}"


def sizes(parts: Mapping[str, int]) -> str:
    """Parts with their sum, such as `3.1 GiB (context 0.1 GiB + weights 3.0 GiB)`."""
    each = " + ".join(
        f"{part.replace('_', ' ')} {megabytes(size)}" for part, size in parts.items() if size
    )
    return f"{megabytes(sum(parts.values()))} ({each})" if each else "nothing"
