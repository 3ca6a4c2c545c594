"""What open pages are told, over a daemon that is made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from gslice.frontend.ui.feed import Feed
from gslice.protos import message


class Daemon:
    """Answers as `ControlLink` does: one event of the past, and a status now and then."""

    def __init__(self) -> None:
        self.watched = 0

    async def stream(self, method: str, caller: str = "", **fields: Any) -> AsyncIterator[Any]:
        if method == "Events":
            yield message("gslice.v1.Event")(id=1, text="it began")
            return
        self.watched += 1
        while True:
            yield message("gslice.v1.Status")()
            await asyncio.sleep(0.01)


async def told(feed: Feed, until: str) -> list[str]:
    """Names of what a viewer hears, up to one of them; then it leaves."""
    heard = []
    items = feed.follow()
    async for name, data in items:
        json.loads(data)
        heard.append(name)
        if name == until:
            break
    await items.aclose()
    return heard


async def looked_twice() -> None:
    daemon = Daemon()
    feed = Feed(daemon)  # type: ignore[arg-type]
    assert await told(feed, "status") == ["history", "events", "status"]
    feed._rest()  # nobody has looked for a minute
    async with asyncio.timeout(10):
        assert await told(feed, "status") == ["history", "events", "status"]
    assert daemon.watched == 2
    await feed.close()


def test_a_page_that_comes_after_the_rest_is_told_as_the_first_was() -> None:
    asyncio.run(looked_twice())
