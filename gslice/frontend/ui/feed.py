"""What every open page is told: one Watch of the daemon's for all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from gslice.core.errors import GsliceError, ResourceExhausted
from gslice.frontend.rest.plain import to_json
from gslice.frontend.ui.sse import item

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gslice.frontend.ui.link import ControlLink
    from gslice.frontend.ui.sse import Item

VIEWERS_MAX = 32
_INTERVAL_MS = 1000
_PACE_S = 0.2  # the daemon tells of every change; a browser need not hear of more
_AGAIN_S = 0.5
_SPAN_S = 300.0  # of the charts
_SAMPLE_S = 0.9
_EVENTS = 300
_LINGER_S = 60.0  # so that a page that is loaded anew has its charts
_QUIET_S = 5.0

log = logging.getLogger("gslice.frontend")


class Feed:
    """Follows the daemon while somebody looks, and shortly after.

    A viewer that reads slowly misses statuses, not events unless it is far behind, and holds nobody
    up: it takes the newest status when it has written the one before.

    Args:
        link: To the daemon.
    """

    def __init__(self, link: ControlLink) -> None:
        self._link = link
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._news = asyncio.Condition()
        self._newest: Any = None
        self._status: Item | None = None
        self._told = 0  # statuses so far
        self._away = ""
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._samples: deque[dict[str, Any]] = deque()

    async def follow(self) -> AsyncGenerator[Item, None]:
        """What one viewer is told: the past, then what happens.

        `history`, then `status`, `events`, `away` (why there are none), `quiet` (nothing is new).

        Raises:
            ResourceExhausted: too many look already.
        """
        if self._viewers >= VIEWERS_MAX:
            raise ResourceExhausted(
                f"{VIEWERS_MAX} pages are open already", hint="close one, and try again"
            )
        self._viewers += 1
        self._start()
        try:
            yield item("history", {"samples": list(self._samples)})
            told, away, last = 0, "", 0
            while True:
                if fresh := [event for event in self._events if event["id"] > last]:
                    last = fresh[-1]["id"]
                    yield item("events", fresh)
                elif self._away and self._away != away:
                    away = self._away
                    yield item("away", {"text": away})
                elif (status := self._status_after(told)) is not None:
                    told, away = self._told, ""
                    yield status
                elif not await self._wait(told, away, last):
                    yield item("quiet", {})
        finally:
            self._viewers -= 1
            self._leave()

    async def close(self) -> None:
        """Stops following."""
        if self._linger is not None:
            self._linger.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    # ---- who looks ---------------------------------------------------------------------------

    def _start(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._task is None:
            self._away = ""
            self._task = asyncio.create_task(self._follow_daemon())
            self._task.add_done_callback(self._ended)

    def _leave(self) -> None:
        if not self._viewers:
            self._linger = asyncio.get_running_loop().call_later(_LINGER_S, self._rest)

    def _rest(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task, self._status = None, None

    def _ended(self, task: asyncio.Task[None]) -> None:
        """It follows until it is cancelled; else the next viewer has it begin anew."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the page cannot follow the daemon", exc_info=error)
            self._away = "the front-end failed; its log says why"
            self._task = None

    def _status_after(self, told: int) -> Item | None:
        """The newest status, if a viewer who has been told so many has not been told that one."""
        return self._status if told != self._told and not self._away else None

    async def _wait(self, told: int, away: str, last: int) -> bool:
        """Waits for something that a viewer does not know; False: nothing came for a while."""

        def new() -> bool:
            newest = self._events[-1]["id"] if self._events else 0
            status = self._status_after(told)
            return status is not None or self._away not in ("", away) or newest > last

        async with self._news:
            try:
                async with asyncio.timeout(_QUIET_S):
                    await self._news.wait_for(new)
            except TimeoutError:
                return False
        return True

    # ---- the daemon --------------------------------------------------------------------------

    async def _follow_daemon(self) -> None:
        while True:
            try:
                await self._catch_up()
                await self._watch()
                self._away = "the daemon ends"
            except GsliceError as error:
                self._away = str(error)
            await self._notify()
            await asyncio.sleep(_AGAIN_S)

    async def _catch_up(self) -> None:
        """The events of the past that are not known here."""
        async for event in self._link.stream("Events", limit=_EVENTS):
            self._learn([event])

    async def _watch(self) -> None:
        """Statuses come as fast as things change; of some that come together the last one counts.

        Raises:
            GsliceError: the daemon has gone.
        """
        came = asyncio.Event()
        telling = asyncio.create_task(self._tell_newest(came))
        try:
            async for status in self._link.stream("Watch", interval_ms=_INTERVAL_MS):
                self._learn(status.events)
                self._newest = status
                came.set()
                if telling.done():
                    telling.result()
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _tell_newest(self, came: asyncio.Event) -> None:
        while True:
            await came.wait()
            came.clear()
            self._tell(self._newest)
            await self._notify()
            await asyncio.sleep(_PACE_S)

    def _learn(self, events: Any) -> None:
        last = self._events[-1]["id"] if self._events else 0
        self._events.extend(to_json(event) for event in events if event.id > last)

    def _tell(self, status: Any) -> None:
        status.ClearField("events")
        at_s = time.time()
        told = to_json(status)
        self._sample(at_s, told["functions"])
        self._away = ""
        self._status = item("status", {"at_s": at_s, **told})
        self._told += 1

    def _sample(self, at_s: float, functions: list[dict[str, Any]]) -> None:
        """What the charts show; a page goes on with it by the same rule (static/store.js)."""
        while self._samples and self._samples[-1]["at_s"] > at_s:  # the clock was put back
            self._samples.pop()
        if self._samples and at_s - self._samples[-1]["at_s"] < _SAMPLE_S:
            return
        figures = {
            each["name"]: [
                round(each["rate_per_s"], 2),
                round(each["p50_us"]),
                round(each["p99_us"]),
                each["queued"] + each["in_flight"],
                round(each["share_effective_percent"], 2),
            ]
            for each in functions
        }
        self._samples.append({"at_s": round(at_s, 2), "functions": figures})
        while at_s - self._samples[0]["at_s"] > _SPAN_S:
            self._samples.popleft()

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()
