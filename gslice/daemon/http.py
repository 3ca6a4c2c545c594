"""The daemon's own pages, metrics and its health: a small WSGI server in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from gslice._native import histogram_bounds_us
from gslice.core.access import Role, credential_of
from gslice.core.errors import GsliceError, PermissionDenied, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gslice.core.access import Access
    from gslice.core.config import NodeConfig
    from gslice.daemon.handover import Handover
    from gslice.telemetry.reading import NodeReading

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
_REQUEST_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 1.0
_OPEN_MAX = 64  # requests at a time, a thread each; whoever comes then is left at once


class HttpServer:
    """Serves a WSGI application until it is closed.

    Args:
        address: host:port; port 0 takes a free one.
        application: The WSGI application, called from several threads.
        listener: Descriptor of a socket that listens there already; None: one is opened.

    Attributes:
        asked: The address as asked for.
        address: With the real port.

    Raises:
        Unavailable: the address cannot be listened on.
    """

    def __init__(
        self,
        address: str,
        application: Callable[..., Iterable[bytes]],
        listener: int | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        server_class = _Server6 if host.startswith("[") else _Server
        try:
            self._server = server_class((host.strip("[]"), int(port)), _Handler, listener)
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error.strerror or error}",
                hint="choose another address, or stop what listens there",
            ) from error
        self._server.set_app(application)
        self.asked = address
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="gslice-http")
        self._thread.start()

    def close(self) -> None:
        """Stops serving and joins the thread."""
        self._stop()
        self._server.server_close()

    def hand_over(self) -> int:
        """Stops serving, but goes on listening: whoever connects waits.

        Returns:
            A descriptor of the listening socket, for the next server.
        """
        self._stop()
        listener = os.dup(self._server.fileno())
        self._server.server_close()
        return listener

    def _stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.wait_answered(_ANSWER_TIMEOUT_S)


def pages(
    ready: Callable[[], bool],
    reading: Callable[[], NodeReading],
    access: Callable[[], Access],
    *,
    triton: bool = True,
) -> dict[str, Callable[..., Iterable[bytes]]]:
    """The applications by their role, which is also their address's name in the settings.

    Args:
        ready: Whether the node serves.
        reading: Its figures.
        access: Who may do what now.
        triton: Whether they are told under Triton's names, too.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import make_wsgi_app

    from gslice.telemetry.metrics import NodeCollector

    registry = CollectorRegistry()
    registry.register(NodeCollector(reading, histogram_bounds_us(), triton=triton))
    metrics = guarded(make_wsgi_app(registry), access, Role.VIEW)
    own = health(ready)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = own if environ["PATH_INFO"] in HEALTH_PAGES else metrics
        return page(environ, start_response)

    return {"metrics": application}


def serve_pages(
    node: NodeConfig, applications: Mapping[str, Callable[..., Iterable[bytes]]], before: Handover
) -> dict[str, HttpServer]:
    """A server for each application, on the socket of the daemon before if it left one.

    Raises:
        Unavailable: an address cannot be listened on; none serves then.
    """
    servers: dict[str, HttpServer] = {}
    try:
        for role, page in applications.items():
            address = getattr(node, role)
            servers[role] = HttpServer(address, page, before.take_listener(role, address))
    except BaseException:
        for server in servers.values():
            server.close()
        raise
    return servers


async def hand_over(servers: Mapping[str, HttpServer]) -> dict[str, tuple[str, int]]:
    """Stops all, and returns what listens on: by role, the address and the descriptor."""
    fds = await asyncio.gather(*(asyncio.to_thread(s.hand_over) for s in servers.values()))
    return {
        role: (server.asked, fd) for (role, server), fd in zip(servers.items(), fds, strict=True)
    }


def guarded(
    page: Callable[..., Iterable[bytes]], access: Callable[[], Access], *roles: Role
) -> Callable[..., Iterable[bytes]]:
    """A page for callers that have one of some roles."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            access().require(_credential(environ), *roles)
        except GsliceError as error:
            known = error.code == PermissionDenied.code
            headers = [] if known else [("WWW-Authenticate", "Bearer")]
            start_response("403 Forbidden" if known else "401 Unauthorized", [*_TEXT, *headers])
            return [f"{error}\n".encode()]
        return page(environ, start_response)

    return application


def _credential(environ: Mapping[str, Any]) -> str | None:
    """The key that a WSGI request shows."""
    return credential_of(lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"))


HEALTH_PAGES = ("/healthz", "/v2/health/live", "/v2/health/ready")


def health(ready: Callable[[], bool]) -> Callable[..., Iterable[bytes]]:
    """The pages of the daemon's health; front-ends have their own, on their port.

    /healthz and /v2/health/live answer 200 while the daemon lives; /v2/health/ready answers 503
    while it starts or drains.
    """

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in ("/healthz", "/v2/health/live"):
            status, text = "200 OK", "alive\n"
        elif path == "/v2/health/ready":
            is_ready = ready()
            status = "200 OK" if is_ready else "503 Service Unavailable"
            text = "ready\n" if is_ready else "not ready\n"
        else:
            status, text = "404 Not Found", f"{', '.join(HEALTH_PAGES)}\n"
        start_response(status, _TEXT)
        return [text.encode()]

    return application


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a client that dawdles must not delay the end
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], handler: type[_Handler], listener: int | None
    ) -> None:
        self._listener = listener
        self._open = 0
        self._ended = threading.Condition()
        super().__init__(address, handler)

    def wait_answered(self, timeout_s: float) -> None:
        """Waits for the requests that are being answered; but not for a client that dawdles."""
        with self._ended:
            self._ended.wait_for(lambda: not self._open, timeout_s)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._ended:
            is_full = self._open >= _OPEN_MAX
            self._open += not is_full
        if is_full:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no more threads, for one
            self._end_one()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._end_one()

    def _end_one(self) -> None:
        with self._ended:
            self._open -= 1
            self._ended.notify_all()

    def server_bind(self) -> None:
        # The base class looks its own name up, which may ask a DNS server.
        if self._listener is not None:
            self.socket.close()
            self.socket = socket.socket(fileno=self._listener)
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every second; nobody wants them in the log."""
