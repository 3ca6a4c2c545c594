"""The page's own answers: its files, what it shows, and what it orders."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gslice import __version__
from gslice.core.access import Role
from gslice.core.errors import GsliceError, NotFound
from gslice.frontend.rest import fields
from gslice.frontend.rest.bodies import read_body, send
from gslice.frontend.rest.plain import to_json
from gslice.frontend.ui.assets import assets
from gslice.frontend.ui.feed import Feed
from gslice.frontend.ui.guard import HEADERS, Guard
from gslice.frontend.ui.link import ControlLink
from gslice.frontend.ui.routes import route, routes_of
from gslice.frontend.ui.sse import item, send_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from aiohttp.typedefs import Handler

    from gslice.core.access import Access
    from gslice.frontend.rest.memory import Memory
    from gslice.frontend.ui.sse import Item

_BODY_MAX_BYTES = 64 << 10
_FUNCTION = "/ui/api/functions/{function}"


class Page:
    """The web page of a node, on a front-end's port.

    Args:
        control: Path of the daemon's control socket.
        memory: Bodies take it.
        closes: Whether connections are to end with their next answer.
        access: Who is known now.
    """

    def __init__(
        self,
        control: Path,
        memory: Memory,
        closes: Callable[[], bool],
        access: Callable[[], Access],
    ) -> None:
        self._link = ControlLink(control)
        self._feed = Feed(self._link)
        self._memory = memory
        self._closes = closes
        self._closing = asyncio.Event()
        self._access = access
        self._guard = Guard("", access)

    def add_to(self, application: web.Application, address: str) -> None:
        """Has a server answer the page's routes.

        Args:
            application: The server's.
            address: Where it listens, host:port.
        """
        self._guard = Guard(address, self._access)
        for each in routes_of(Page):
            handler = self._guarded(getattr(self, each.name), each.role)
            application.router.add_route(each.method, each.path, handler)

    def leave(self) -> None:
        """Ends what goes on for ever: pages connect anew."""
        self._closing.set()

    async def close(self) -> None:
        """Lets go of the daemon."""
        self.leave()
        await self._feed.close()
        await self._link.close()

    # ---- files -------------------------------------------------------------------------------

    @route("GET", "/ui", None)
    async def bare(self, request: web.Request) -> web.StreamResponse:
        """The page's links start from /ui/."""
        return await self._send(request, b"", status=308, headers={"Location": "ui/"})

    @route("GET", "/ui/", None)
    async def index(self, request: web.Request) -> web.StreamResponse:
        """The page."""
        return await self._send_file(request, "index.html")

    @route("GET", r"/ui/{file:[a-z-]+\.[a-z]+}", None)
    async def file(self, request: web.Request) -> web.StreamResponse:
        """One of its files."""
        return await self._send_file(request, request.match_info["file"])

    # ---- what it shows -----------------------------------------------------------------------

    @route("GET", "/ui/api/session", Role.VIEW)
    async def session(self, request: web.Request) -> web.StreamResponse:
        """What the caller may do, and which gslice this is."""
        why_not = self._guard.why_not(request)
        told = {"version": __version__, "may_change": not why_not, "why_not": why_not}
        return await self._tell(request, told)

    @route("GET", "/ui/api/live", Role.VIEW)
    async def live(self, request: web.Request) -> web.StreamResponse:
        """Status and events, as they come."""
        return await self._send_events(request, self._feed.follow())

    @route("GET", f"{_FUNCTION}/profile", Role.VIEW)
    async def profile(self, request: web.Request) -> web.StreamResponse:
        """What was measured of a function, and the model fitted to it."""
        steps = self._link.stream("Profile", name=_function(request), show=True)
        async for step in steps:
            return await self._tell(request, to_json(step.result))
        raise NotFound("no profile is kept")

    # ---- what it orders ----------------------------------------------------------------------

    @route("POST", f"{_FUNCTION}/resize", Role.ADMIN)
    async def resize(self, request: web.Request) -> web.StreamResponse:
        """Changes a share, or says what that would do; its stages, as they pass."""
        asked = await self._read(request)
        return await self._order(
            request,
            "Resize",
            name=_function(request),
            share=fields.text_field(asked, "share", needed=True),
            dry_run=fields.flag_field(asked, "dry_run") or False,
        )

    @route("POST", f"{_FUNCTION}/load", Role.ADMIN)
    async def load(self, request: web.Request) -> web.StreamResponse:
        """Loads a function as it is declared; its stages."""
        await self._read(request)
        return await self._order(request, "Load", name=_function(request))

    @route("POST", f"{_FUNCTION}/unload", Role.ADMIN)
    async def unload(self, request: web.Request) -> web.StreamResponse:
        """Drains and removes a function; its stages."""
        await self._read(request)
        return await self._order(request, "Unload", name=_function(request))

    @route("POST", "/ui/api/drain", Role.ADMIN)
    async def drain(self, request: web.Request) -> web.StreamResponse:
        """Has functions leave a device, or lets them come again; a stage each."""
        asked = await self._read(request)
        return await self._order(
            request,
            "Drain",
            device=fields.text_field(asked, "device", needed=True),
            undo=fields.flag_field(asked, "undo") or False,
        )

    # ---- parts -------------------------------------------------------------------------------

    def _guarded(self, handler: Handler, role: Role | None) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._guard.check(request, role)
            return await handler(request)

        return guarded

    async def _order(self, request: web.Request, method: str, **asked: Any) -> web.StreamResponse:
        """Sends the stages of an order; it goes on in the daemon if the browser leaves.

        What is refused at once has an HTTP status that says so.
        """
        caller = self._guard.caller(request, Role.ADMIN).name
        stages = self._link.stream(method, caller, **asked)
        first = await anext(stages)
        return await self._send_events(request, _stages(first, stages))

    async def _read(self, request: web.Request) -> dict[str, Any]:
        with self._memory.account() as account:
            body = await read_body(request, _BODY_MAX_BYTES, account)
            return fields.parse_object(memoryview(body), "the request")

    async def _send_events(
        self, request: web.Request, items: AsyncGenerator[Item, None]
    ) -> web.StreamResponse:
        try:
            first = await anext(items)  # what fails at once is no stream yet
            allowed = self._while_allowed(first, items)
            return await send_events(request, allowed, self._closing, HEADERS)
        finally:
            await items.aclose()

    async def _while_allowed(
        self, first: Item, rest: AsyncGenerator[Item, None]
    ) -> AsyncGenerator[Item, None]:
        """Ends when others may look than could: whoever still may comes again."""
        access = self._access()
        yield first
        async for each in rest:
            if self._access() != access:
                return
            yield each

    async def _send_file(self, request: web.Request, name: str) -> web.StreamResponse:
        asset = assets().get(name)
        if asset is None:
            raise NotFound(f"the page has no file {name}")
        headers = {"ETag": asset.tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == asset.tag:
            return await self._send(request, b"", status=304, headers=headers)
        return await self._send(request, asset.body, kind=asset.kind, headers=headers)

    async def _tell(self, request: web.Request, told: Any) -> web.StreamResponse:
        headers = {"Cache-Control": "no-store"}
        return await self._send(request, json.dumps(told).encode(), headers=headers)

    async def _send(
        self,
        request: web.Request,
        body: bytes,
        *,
        status: int = 200,
        kind: str = "application/json",
        headers: dict[str, str],
    ) -> web.StreamResponse:
        return await send(
            request,
            [body] if body else [],
            status=status,
            kind=kind,
            headers={**HEADERS, **headers},
            closes=self._closes(),
        )


async def _stages(first: Any, rest: AsyncGenerator[Any, None]) -> AsyncGenerator[Item, None]:
    """Stages as events; the last one tells if the daemon goes meanwhile."""
    try:
        yield item("stage", to_json(first))
        async for stage in rest:
            yield item("stage", to_json(stage))
    except GsliceError as error:
        yield item("stage", {"name": "failed", "elapsed_ms": 0, "detail": str(error)})
    finally:
        await rest.aclose()


def _function(request: web.Request) -> str:
    return fields.text_field(dict(request.match_info), "function")
