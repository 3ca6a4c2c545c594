"""Changing a share that is fixed when a process starts: another is loaded beside what serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.supervise.news import recorded
from gslice.supervise.tasks import Tasks

if TYPE_CHECKING:
    from gslice.core.events import Record
    from gslice.supervise.function import Function


class Resizing:
    """Brings what serves to the share that was granted, after any other order.

    Args:
        function: Whose share it is.
        event: Records what went wrong.
    """

    def __init__(self, function: Function, event: Record) -> None:
        self._function = function
        self._event = event
        self._tasks = Tasks(function.name, event)
        self._waiting = False

    def order(self) -> None:
        """A share was granted; if it is not the one that serves, that will be seen to."""
        if not self._waiting and not self._is_right():
            self._waiting = True
            self._tasks.start(self._resize())

    async def cancel(self) -> None:
        """Leaves the share as it is."""
        await self._tasks.cancel()
        self._waiting = False

    def _is_right(self) -> bool:
        share_percent = self._function.share_granted_percent
        return all(d.has_share(share_percent) for d in self._function.lasting)

    async def _resize(self) -> None:
        function = self._function
        async with function.lock:
            self._waiting = False
            serving = function.deployment
            if serving is None or not function.accepting or self._is_right():
                return
            try:
                with function.load_ordered():
                    await function.load(function.spec, recorded(self._event, function.name))
            except GsliceError as error:
                text = f"keeps its share of {serving.share_percent:g}%: {error.message}"
                self._event(function.name, EventKind.SHARE, text)
