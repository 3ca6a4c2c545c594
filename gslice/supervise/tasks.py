"""Work that goes on in the background: none of it is lost, none ends unseen."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from gslice.core.errors import GsliceError
from gslice.core.events import EventKind

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

    from gslice.core.events import Record

_log = logging.getLogger("gslice")
_T = TypeVar("_T")


class Tasks:
    """Tasks of one owner. One that breaks is recorded: often nobody waits for it.

    Args:
        subject: What they are about, for the record.
        event: Records it.
    """

    def __init__(self, subject: str, event: Record) -> None:
        self._subject = subject
        self._event = event
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def start(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        """Begins something that ends with its owner at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel(self) -> None:
        """Ends all, except the task that asks for it, and waits until they have ended."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, GsliceError):
            _log.error("%s: a task broke", self._subject, exc_info=error)
        text = f"a task ended with {type(error).__name__}: {error}"
        self._event(self._subject, EventKind.FAILED, text)


async def run_all(coroutines: Iterable[Coroutine[None, None, _T]]) -> list[_T]:
    """Runs all to their end, then raises the first error, so that nothing goes on unseen."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
