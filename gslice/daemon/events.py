"""What happened on the node: recorded, counted, and told to those who follow."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.daemon.store import EventFilter
from gslice.supervise.node import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gslice.daemon.store import Event, Store

_PAGE = 100  # of what one reader holds in memory
_FIRST = 5  # of the past, for somebody who watches
_LEVELS = {
    EventKind.STAGE: logging.DEBUG,
    EventKind.CRASH: logging.WARNING,
    EventKind.KILL: logging.WARNING,
    EventKind.FAULT: logging.ERROR,
    EventKind.FAILED: logging.ERROR,
}
_log = logging.getLogger("gslice")


class EventLog:
    """The node's events.

    Args:
        store: Keeps them.

    Attributes:
        counts: How many there were since this daemon started, by kind; every kind is there.
    """

    def __init__(self, store: Store) -> None:
        self.counts: dict[str, int] = dict.fromkeys(EventKind, 0)
        self._store = store
        self._news = Changes()
        self._closed = False

    def record(self, subject: str, kind: EventKind, text: str) -> None:
        """Logs, counts and keeps an event. That it cannot be kept stops nothing."""
        level = _LEVELS.get(kind, logging.INFO)
        extra = {"subject": subject, "kind": str(kind)}
        _log.log(level, "%s: %s", subject, text, extra=extra)
        self.counts[kind] += 1
        with forgiving():
            self._store.add_event(subject, kind, text)
        self._news.notify()

    def close(self) -> None:
        """Lets those who follow go, when they have read the rest."""
        self._closed = True
        self._news.notify()

    async def read(
        self, wanted: EventFilter, limit: int, *, follow: bool = False
    ) -> AsyncIterator[Event]:
        """The newest `limit` events, oldest first; then, with `follow`, what happens.

        Ids ascend, so a reader goes on after the last one that it was given, at its own pace: none
        is left out or told twice, and whoever reads slowly costs no memory. One that lags behind
        by more than the store keeps misses what was dropped.

        Raises:
            Unavailable: the store cannot be read now.
        """
        last = self._store.before_newest_events(limit, wanted)
        while True:
            # Both before the page is read: more may happen while the reader has its events.
            seen, ending = self._news.version, self._closed or not follow
            page = self._store.events(last, _PAGE, wanted)
            for event in page:
                last = event.id
                yield event
            if len(page) == _PAGE:
                continue
            if ending:
                return
            await self._news.wait(seen)

    def known(self, subject: str) -> bool:
        """Whether anything that is kept happened to it."""
        return bool(self._store.events(0, 1, EventFilter(subject)))

    def watcher(self) -> Watcher:
        """For somebody who wants what is new from time to time."""
        return Watcher(self._store)


class Watcher:
    """Remembers up to where somebody has been told; begins with the newest few events.

    Args:
        store: Keeps the events.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: int | None = None

    def news(self) -> list[Event]:
        """The events since the last call, or the first of many: the rest comes with the next."""
        events: list[Event] = []
        with forgiving("events cannot be shown"):
            if self._last is None:
                self._last = self._store.before_newest_events(_FIRST)
            events = self._store.events(self._last, _PAGE)
            self._last = events[-1].id if events else self._last
        return events


@contextlib.contextmanager
def forgiving(loss: str = "not recorded") -> Iterator[None]:
    """What only informs must not stop what it tells of, such as a restart on a full disk."""
    try:
        yield
    except GsliceError as error:
        _log.warning("%s: %s", loss, error)
