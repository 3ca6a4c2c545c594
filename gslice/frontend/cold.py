"""Requests to a function that is not loaded now: they wait in its segment while it is loaded.

The data path does not know such a function, so each request to it comes here. It is queued first,
and the daemon is told then: whatever the daemon was doing, it finds the request or starts a load.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from gslice.core.errors import Unavailable
from gslice.core.figures import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.frontend.catalogue import Function


Origin = tuple[int, str, int]
"""Of a request: its tenant's place or -1, its traceparent, and when the first of it came on the
monotonic clock, in ns."""

NO_ORIGIN: Origin = (-1, "", 0)


class ColdPath(Protocol):
    """The way into the queue of a function that the data path does not know."""

    def queue(
        self, function: Function, request: bytes, deadline_ns: int | None, origin: Origin
    ) -> int:
        """Queues a request, and no other; its ticket. Raises as `Frontend.submit` does."""

    def deadline_ns(self, ticket: int) -> int | None:
        """When it ends, with the `timeout` parameter applied."""

    def cancel(self, ticket: int) -> None:
        """Takes it back."""


class ColdStarts:
    """See the module.

    Args:
        path: Where requests are queued.
        wake: Tells the daemon that a function is wanted; raises Unavailable if none is there.
    """

    def __init__(self, path: ColdPath, wake: Callable[[str], None]) -> None:
        self._path = path
        self._wake = wake

    def submit(
        self,
        function: Function,
        request: bytes,
        deadline_ns: int | None,
        origin: Origin = NO_ORIGIN,
    ) -> int:
        """Queues a request that has the time to wait for the load.

        Args:
            function: A cold one.
            request: Serialised.
            deadline_ns: The caller's; None: none.
            origin: Whose it is, and what the data path's journal has of it.

        Returns:
            Its ticket.

        Raises:
            Unavailable: it has not, and may be sent again when the load is expected to be done; or
                no daemon is there.
            GsliceError: as of `Frontend.submit`.
        """
        ticket = self._path.queue(function, request, deadline_ns, origin)
        try:
            self._check_time(function, self._path.deadline_ns(ticket))
        except Unavailable:
            self._path.cancel(ticket)  # before anybody could answer it
            self._wake(function.spec.name)
            raise
        try:
            self._wake(function.spec.name)
        except Unavailable:
            self._path.cancel(ticket)
            raise
        return ticket

    def _check_time(self, function: Function, deadline_ns: int | None) -> None:
        now_ns = time.monotonic_ns()
        function.woken_ns = function.woken_ns or now_ns
        left_ns = max(0, function.woken_ns + function.load_us * 1000 - now_ns)
        if deadline_ns is None or deadline_ns - now_ns >= left_ns:
            return
        expected = milliseconds(left_ns / 1000)
        raise Unavailable(
            f"function {function.spec.name!r} is being loaded, which takes another {expected}, "
            "longer than this request may wait",
            hint=f"try again in {expected}, or with a longer deadline",
            retry_after_ms=-(-left_ns // 1_000_000),
        )
