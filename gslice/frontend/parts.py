"""What a front-end is put together from, by what speaks gRPC in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice import _native
from gslice.frontend.catalogue import Catalogue
from gslice.frontend.readiness import Readiness
from gslice.frontend.regions import Regions
from gslice.frontend.servicer import Servicer

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
        server: Serves them.
        doorbell: An eventfd that workers ring.
        close: Lets go of all, after the server has drained.
    """

    data_path: _native.Frontend | _native.GrpcServer
    catalogue: Catalogue
    regions: Regions
    server: Server
    doorbell: int
    close: Callable[[], None]


def aio_parts(settings: Settings, repository: Repository, wake: Wake, memory: Memory) -> Parts:
    """What speaks gRPC by grpc.aio."""
    from gslice.frontend.aio_server import AioServer
    from gslice.frontend.completions import Completions
    from gslice.frontend.inference import InferenceServicer

    native = _native.Frontend(settings.index)
    completions = Completions(native, asyncio.get_running_loop())
    catalogue = Catalogue(native, completions.drain)
    readiness = Readiness(catalogue)
    regions = Regions(native, memory, offered=bool(settings.client_memory))
    service = InferenceServicer(
        native, completions, catalogue, readiness, repository, wake, regions
    )
    server = AioServer(service, completions, catalogue, readiness, settings.limits, settings.tls)
    return Parts(native, catalogue, regions, server, completions.eventfd, completions.close)


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
    catalogue = Catalogue(native, lambda: None)  # the loop arms doorbells in every turn
    readiness = Readiness(catalogue)
    regions = Regions(native, memory, offered=bool(settings.client_memory))
    service = Servicer(catalogue, readiness, repository, regions)
    server = NativeServer(native, service, catalogue, readiness, wake, limits)
    return Parts(native, catalogue, regions, server, native.doorbell, server.close)
