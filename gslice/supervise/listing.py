"""A function as front-ends show it, and the orders that tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.ipc.messages import AddFunction, SetFunction

if TYPE_CHECKING:
    from gslice._native import Segment
    from gslice.core.types import FunctionSpec, Signature
    from gslice.ipc.messages import Message


@dataclass(frozen=True)
class Listing:
    """A function as front-ends show it.

    Attributes:
        spec: The function.
        state: `LOADING`, `READY`, `COLD`, `UNLOADING` or `UNAVAILABLE`.
        reason: Why it is not READY.
        segment: Where its requests go; None while it never had one.
        signature: Likewise.
        load_us: If it is COLD: how long its load takes.
    """

    spec: FunctionSpec
    state: str
    reason: str = ""
    segment: Segment | None = None
    signature: Signature | None = None
    load_us: int = 0

    def orders(self, *, with_segment: bool) -> list[tuple[Message, tuple[int, ...]]]:
        """What brings a front-end up to date with it."""
        orders: list[tuple[Message, tuple[int, ...]]] = []
        if with_segment and self.segment is not None and self.signature is not None:
            orders.append((AddFunction(self.spec, self.signature), (self.segment.fd,)))
        name, state, reason = self.spec.name, self.state, self.reason
        orders.append((SetFunction(name, state, reason, self.spec, self.load_us), ()))
        return orders
