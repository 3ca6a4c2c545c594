"""How much memory requests may take outside their slots, all together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from gslice.core.errors import ResourceExhausted
from gslice.core.types import ELEMENT_BYTES
from gslice.core.units import format_size

if TYPE_CHECKING:
    from types import TracebackType

_VALUE_BYTES = 96  # of one value, as Python's object and as JSON's text together, at most


class Memory:
    """What may be taken, and what is.

    Args:
        limit_bytes: Most of it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def account(self) -> Account:
        """One request's part, which it gives back at its end."""
        return Account(self)


class Account:
    """See `Memory.account`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._taken_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._memory.taken_bytes -= self._taken_bytes
        self._taken_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Is called before the memory is taken.

        Raises:
            ResourceExhausted: There is no room for it.
        """
        memory = self._memory
        if memory.taken_bytes + size_bytes > memory.limit_bytes:
            hint = "try again later"
            if self._taken_bytes + size_bytes > memory.limit_bytes:
                hint = "send and ask for tensors as binary data, or raise node.frontend_memory"
            raise ResourceExhausted(
                "the front-end has no memory for this request: it may take"
                f" {format_size(memory.limit_bytes)} for all together",
                hint=hint,
            )
        memory.taken_bytes += size_bytes
        self._taken_bytes += size_bytes


def parsed_bytes(text: bytes | memoryview) -> int:
    """Most that JSON takes when it has been parsed, and its numbers as a tensor's bytes.

    Found out before it is parsed: `[[],[],` and the like take thirty times the text.
    """
    text = bytes(text)
    wide = 1 if text.isascii() and b"\\" not in text else 4
    objects = 96 * text.count(b"[") + 288 * text.count(b"{") + 32 * text.count(b'"')
    return wide * len(text) + 64 * text.count(b",") + objects


def told_bytes(raw: bytes, dtype: str) -> int:
    """Most that a tensor takes as Python's objects and as JSON, from its bytes."""
    element_bytes = ELEMENT_BYTES[dtype]
    if element_bytes:
        return _VALUE_BYTES * (len(raw) // element_bytes)
    return _VALUE_BYTES * (len(raw) // 4) + 8 * len(raw)
