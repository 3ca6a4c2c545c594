"""Health and metrics over HTTP: two small WSGI servers, each in a thread of its own."""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from gslice.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
_REQUEST_TIMEOUT_S = 10.0


class HttpServer:
    """Serves a WSGI application until it is closed.

    Args:
        address: host:port; port 0 takes a free one.
        application: The WSGI application, called from several threads.

    Attributes:
        address: With the real port.

    Raises:
        Unavailable: the address cannot be listened on.
    """

    def __init__(self, address: str, application: Callable[..., Iterable[bytes]]) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = make_server(
                host.strip("[]"), int(port), application, _server_class(host), _Handler
            )
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error.strerror or error}",
                hint="choose another address, or stop what listens there",
            ) from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="gslice-http")
        self._thread.start()

    def close(self) -> None:
        """Stops serving and joins the thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def health(ready: Callable[[], bool]) -> Callable[..., Iterable[bytes]]:
    """The health pages.

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
            status, text = "404 Not Found", "/healthz, /v2/health/live, /v2/health/ready\n"
        start_response(status, _TEXT)
        return [text.encode()]

    return application


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a client that dawdles must not delay the end
    block_on_close = False

    def server_bind(self) -> None:
        # The base class looks its own name up, which may ask a DNS server.
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


def _server_class(host: str) -> type[_Server]:
    return _Server6 if host.startswith("[") else _Server
