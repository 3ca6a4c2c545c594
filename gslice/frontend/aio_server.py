"""The portable server: grpc.aio."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc

from gslice.core.errors import Unavailable
from gslice.frontend import health, inference, reflection, servicer
from gslice.frontend.server import SERVICES, Server
from gslice.protos.rpc import generic_handler

if TYPE_CHECKING:
    from gslice.core.tls import TlsContent
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.completions import Completions
    from gslice.frontend.inference import InferenceServicer
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.settings import Limits

_PENDING_MAX = 1 << 16  # calls that came and that no Python has seen yet


class AioServer(Server):
    """One of gRPC's own.

    Args:
        service: The inference service.
        completions: Its calls that wait for an answer.
        catalogue: What health answers from.
        readiness: As of `Server`.
        limits: Of requests and connections.
        tls: Encrypts the port; None: nothing does.
    """

    def __init__(
        self,
        service: InferenceServicer,
        completions: Completions,
        catalogue: Catalogue,
        readiness: Readiness,
        limits: Limits,
        tls: TlsContent | None = None,
    ) -> None:
        super().__init__(readiness)
        self._service = service
        self._completions = completions
        self._catalogue = catalogue
        self._limits = limits
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def _listen(self, address: str) -> int:
        server = grpc.aio.server(options=_options(self._limits))
        server.add_generic_rpc_handlers(self._handlers())
        try:
            port = self._add_port(server, address)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error}", hint="choose another address, or free it"
            ) from error
        await server.start()
        self._server = server
        return port

    def _leave(self) -> None:
        """Clients that are of age are told so by gRPC, which offers no other way."""

    def _refuse(self) -> None:
        self._service.stop_streams()

    async def _stop(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        await self._completions.settle(timeout_s)
        if self._server is not None:
            await self._server.stop(max(0.0, ends - time.monotonic()))

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        if self._tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, _credentials(self._tls)))

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        return (
            generic_handler(servicer.SERVICE, self._service, raw=inference.RAW_METHODS),
            generic_handler(
                health.SERVICE,
                health.HealthServicer(self._catalogue, self._readiness, self._service.gate),
            ),
            *(
                generic_handler(
                    reflection.service_name(version),
                    reflection.ReflectionServicer(version, SERVICES),
                )
                for version in reflection.VERSIONS
            ),
        )


def _credentials(tls: TlsContent) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_authority or None,
        require_client_auth=bool(tls.client_authority),
    )


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # several front-ends share the address
        ("grpc.max_receive_message_length", limits.request_max_bytes),
        ("grpc.max_connection_age_ms", limits.connection_age_ms),
        ("grpc.max_send_message_length", -1),  # what a model answers is bounded by its slots
        # Above 1,000 of them gRPC draws lots, and answers anybody with CANCELLED.
        ("grpc.server.max_pending_requests", _PENDING_MAX),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING_MAX),
    ]
