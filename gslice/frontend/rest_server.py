"""The HTTP server: aiohttp, with the endpoints of gslice.frontend.rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from gslice.core.access import ANONYMOUS, is_loopback
from gslice.core.errors import GsliceError, Internal, InvalidArgument, PermissionDenied
from gslice.frontend import sockets
from gslice.frontend.rest.bodies import send
from gslice.frontend.rest.endpoint import endpoints_of
from gslice.frontend.rest.endpoints import Endpoints
from gslice.frontend.rest.failures import Call, failure_headers, http_status
from gslice.frontend.rest.host import check_host
from gslice.frontend.rest.memory import Memory
from gslice.frontend.server import Server
from gslice.frontend.ui.page import Page

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from gslice.core.access import Access
    from gslice.core.tls import TlsContent
    from gslice.frontend.inference import InferenceServicer
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.settings import Limits

log = logging.getLogger("gslice.frontend")

_GOING_S = 1.0  # for calls that are given up


class RestServer(Server):
    """KServe v2 over HTTP.

    Args:
        service: Answers what gRPC has, too.
        readiness: As of `Server`.
        limits: Of requests and connections.
        tls: Encrypts the port; None: nothing does.
        control: The daemon's control socket, for the web page; empty: there is no page.

    Raises:
        InvalidArgument: the certificates cannot be used.
    """

    def __init__(
        self,
        service: InferenceServicer,
        readiness: Readiness,
        limits: Limits,
        tls: TlsContent | None = None,
        control: str = "",
    ) -> None:
        super().__init__(readiness)
        self._limits = limits
        self._tls = _context(tls) if tls is not None else None
        memory = Memory(limits.memory_max_bytes)
        self._endpoints = Endpoints(service, memory, limits.request_max_bytes, self._closes)
        self._gate = service.gate
        self._known = {each.name: each for each in endpoints_of(Endpoints)}
        self._page = Page(Path(control), memory, self._closes, self._access) if control else None
        self._runner: web.AppRunner | None = None
        self._is_local = False  # only this machine reaches the port, its browsers included
        self._open = 0  # calls that are being answered
        self._idle = asyncio.Event()
        self._idle.set()

    async def _listen(self, address: str) -> int:
        self._is_local = is_loopback(address)
        application = web.Application(middlewares=[self._answered])
        for each in endpoints_of(Endpoints):
            handler = getattr(self._endpoints, each.name)
            for path in each.paths:
                application.router.add_route(each.method, path, handler)
                if each.method == "GET":
                    application.router.add_route("HEAD", path, handler)
        if self._page is not None:
            self._page.add_to(application, address)
        # It would tell of every client that speaks no HTTP; what is ours is told by `_answered`.
        silent = logging.getLogger(f"{log.name}.http")
        silent.setLevel(logging.CRITICAL)
        runner = web.AppRunner(
            application,
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            keepalive_timeout=self._limits.connection_age_ms / 1000,
            logger=silent,
            shutdown_timeout=_GOING_S,
        )
        listener = await sockets.listen_at(address)
        await runner.setup()
        site = web.SockSite(runner, listener, ssl_context=self._tls, backlog=sockets.BACKLOG)
        await site.start()
        self._runner = runner
        return int(listener.getsockname()[1])

    def _leave(self) -> None:
        """Connections end with their next answer, or when they have been idle for long enough."""
        self._leave_page()

    def _refuse(self) -> None:
        """The servicer does; and whoever asks hears that the connection ends."""
        self._leave_page()

    async def _stop(self, timeout_s: float) -> None:
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            await self._runner.cleanup()
        if self._page is not None:
            await self._page.close()

    def _access(self) -> Access:
        return self._gate.access

    def _leave_page(self) -> None:
        if self._page is not None:
            self._page.leave()

    def _closes(self) -> bool:
        return self.state != "serving"

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever goes wrong is told in the same way."""
        self._open += 1
        self._idle.clear()
        try:
            self._admit(request)
            return await handler(request)
        except GsliceError as error:
            return await self._fail(request, error)
        except web.HTTPException as error:  # there is no such path, or not for that method
            text = f"there is no {request.method} {request.path}; /v2/docs has what there is"
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return await self._say(request, error.status, text, headers)
        except (ConnectionError, asyncio.CancelledError):  # the client has left
            raise
        except Exception:
            log.exception("a call of %s failed", request.path)
            text = "the front-end failed; its log says why"
            return await self._fail(request, Internal(text))
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    def _admit(self, request: web.Request) -> None:
        """Before its body is read; any page that a browser shows could send what changes a node."""
        endpoint = self._known.get(getattr(request.match_info.handler, "__name__", ""))
        if endpoint is None:
            return
        if endpoint.rpc:
            caller = self._gate.admit(endpoint.rpc, Call(request.headers))
            if self._is_local and caller is not None and caller.name == ANONYMOUS:
                check_host(request.headers)
        if endpoint.changes and "Origin" in request.headers:
            raise PermissionDenied("calls that change the node are not taken from web pages")

    async def _fail(self, request: web.Request, error: GsliceError) -> web.StreamResponse:
        return await self._say(request, http_status(error), str(error), failure_headers(error))

    async def _say(
        self, request: web.Request, status: int, text: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        body = json.dumps({"error": text}).encode()
        return await send(request, [body], status=status, headers=headers, closes=self._closes())


def _context(tls: TlsContent) -> ssl.SSLContext:
    """OpenSSL reads keys from files only, and these have been read: into one without a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("gslice-tls")
    try:
        os.write(descriptor, tls.key + b"\n" + tls.certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        if tls.client_authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=tls.client_authority.decode())
    except (ssl.SSLError, ValueError) as error:
        raise InvalidArgument(f"the certificates cannot be used: {error}") from error
    finally:
        os.close(descriptor)
    return context
