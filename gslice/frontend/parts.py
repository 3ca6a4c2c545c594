"""What a front-end is put together from, by its kind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice import _native
from gslice.frontend.catalogue import Catalogue
from gslice.frontend.gate import Gate
from gslice.frontend.readiness import Readiness
from gslice.frontend.regions import Regions
from gslice.frontend.servicer import Servicer
from gslice.ipc.messages import REST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gslice.frontend.server import Server
    from gslice.frontend.settings import Settings
    from gslice.ipc.messages import RegisterMemory, RepositoryCall, UnregisterMemory

    Memory = Callable[[RegisterMemory | UnregisterMemory], Awaitable[None]]
    Repository = Callable[[RepositoryCall], Awaitable[None]]
    Wake = Callable[[str], None]


@dataclass(frozen=True)
class Parts:
    """The parts that the rest of the process knows.

    Attributes:
        data_path: Holds the requests in flight.
        catalogue: The functions.
        regions: Clients' memory.
        gate: Who may call what.
        server: Serves them.
        doorbell: An eventfd that workers ring.
        close: Lets go of all, after the server has drained.
    """

    data_path: _native.Frontend | _native.GrpcServer
    catalogue: Catalogue
    regions: Regions
    gate: Gate
    server: Server
    doorbell: int
    close: Callable[[], None]


def aio_parts(settings: Settings, repository: Repository, wake: Wake, memory: Memory) -> Parts:
    """What speaks gRPC by grpc.aio."""
    from gslice.frontend.aio_server import AioServer

    path = _PythonPath(settings, repository, wake, memory)
    server = AioServer(
        path.service,
        path.completions,
        path.catalogue,
        path.readiness,
        settings.limits,
        settings.tls,
    )
    return path.parts(server)


def rest_parts(settings: Settings, repository: Repository, wake: Wake, memory: Memory) -> Parts:
    """What speaks HTTP.

    Raises:
        InvalidArgument: the certificates cannot be used.
    """
    from gslice.frontend.rest_server import RestServer

    path = _PythonPath(settings, repository, wake, memory)
    server = RestServer(
        path.service, path.readiness, settings.limits, settings.tls, settings.control
    )
    return path.parts(server)


def native_parts(settings: Settings, repository: Repository, wake: Wake, memory: Memory) -> Parts:
    """What speaks gRPC by a thread of C++.

    Raises:
        InvalidArgument: the certificates cannot be used.
        ResourceExhausted: the process may open no more descriptors.
    """
    from gslice.frontend.native_server import NativeServer

    limits, tls = settings.limits, settings.tls
    pem = (tls.certificate, tls.key, tls.client_authority) if tls is not None else ()
    native = _native.GrpcServer(
        settings.index,
        limits.request_max_bytes,
        limits.memory_max_bytes,
        limits.connection_age_ms * 1_000_000,
        *pem,
    )
    if settings.journal is not None:
        native.keep_journal(*settings.journal)
    catalogue = Catalogue(native, lambda: None)  # the loop arms doorbells in every turn
    readiness = Readiness(catalogue)
    regions = Regions(native, memory, offered=bool(settings.client_memory))
    gate = Gate(native)
    service = Servicer(catalogue, readiness, repository, regions, gate)
    server = NativeServer(native, service, catalogue, readiness, wake, limits)
    return Parts(native, catalogue, regions, gate, server, native.doorbell, server.close)


PARTS = {"python": aio_parts, "native": native_parts, REST: rest_parts}
"""What builds a front-end of each kind."""


class _PythonPath:
    """The data path of a front-end that is served by Python, up to its server."""

    def __init__(
        self, settings: Settings, repository: Repository, wake: Wake, memory: Memory
    ) -> None:
        from gslice.frontend.completions import Completions
        from gslice.frontend.inference import InferenceServicer

        self._native = native = _native.Frontend(settings.index)
        if settings.journal is not None:
            native.keep_journal(*settings.journal)
        self.completions = Completions(native, asyncio.get_running_loop())
        self.catalogue = Catalogue(native, self.completions.drain)
        self.readiness = Readiness(self.catalogue)
        self._regions = Regions(native, memory, offered=bool(settings.client_memory))
        self._gate = Gate(native)
        self.service = InferenceServicer(
            native,
            self.completions,
            self.catalogue,
            self.readiness,
            repository,
            wake,
            self._regions,
            self._gate,
            has_journal=settings.journal is not None,
        )

    def parts(self, server: Server) -> Parts:
        """All of it, with what serves it."""
        completions = self.completions
        return Parts(
            self._native,
            self.catalogue,
            self._regions,
            self._gate,
            server,
            completions.eventfd,
            completions.close,
        )
