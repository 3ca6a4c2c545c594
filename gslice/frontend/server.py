"""The gRPC server's life: start, drain, close."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc

from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.frontend import health, reflection, servicer, sockets
from gslice.protos.rpc import generic_handler

if TYPE_CHECKING:
    from gslice.core.tls import TlsContent
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.completions import Completions
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.servicer import InferenceServicer
    from gslice.frontend.settings import Limits

SERVICES = (
    servicer.SERVICE,
    health.SERVICE,
    *(reflection.service_name(version) for version in reflection.VERSIONS),
)


_LEFT_POLL_S = 0.05


class Server:
    """One gRPC server, started at most once.

    Args:
        inference: The inference service.
        completions: Its calls that wait for an answer.
        catalogue: What health answers from.
        readiness: Turned to not ready when the server drains.
        limits: Of requests and connections.
        tls: Encrypts the port; None: nothing does.
    """

    def __init__(
        self,
        inference: InferenceServicer,
        completions: Completions,
        catalogue: Catalogue,
        readiness: Readiness,
        limits: Limits,
        tls: TlsContent | None = None,
    ) -> None:
        self._inference = inference
        self._completions = completions
        self._catalogue = catalogue
        self._readiness = readiness
        self._limits = limits
        self._tls = tls
        self._retiring = False
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def state(self) -> str:
        """`starting`, `serving`, `retiring` or `draining`."""
        if self._readiness.draining:
            return "draining"
        if self._retiring:
            return "retiring"
        return "serving" if self.address else "starting"

    async def start(self, address: str) -> str:
        """Listens and serves.

        Args:
            address: host:port; port 0 takes a free one.

        Returns:
            The address with the real port.

        Raises:
            FailedPrecondition: It serves at another address, or drains.
            Unavailable: The address cannot be listened on.
        """
        if self.state != "starting":
            if self.state == "serving" and address == self.address:
                return self.address
            raise FailedPrecondition(f"the front-end is {self.state} at {self.address}")
        server = grpc.aio.server(options=_options(self._limits))
        server.add_generic_rpc_handlers(self._handlers())
        try:
            port = self._add_port(server, address)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error}", hint="choose another address, or free it"
            ) from error
        await server.start()
        host = address.rpartition(":")[0]
        self._server, self.address = server, f"{host}:{port}"
        return self.address

    def direct(self, place: int) -> None:
        """Has new connections go to one of the front-ends that share the port; -1: to all.

        Raises:
            FailedPrecondition: It does not serve.
            Unavailable: The kernel does not do that.
        """
        if not self.address:
            raise FailedPrecondition(f"the front-end is {self.state}")
        if place < 0:
            sockets.divide(self._port)
        else:
            sockets.attract(self._port, place)

    async def retire(self, timeout_s: float) -> None:
        """Serves on until every client has come of age and gone, or until the time is up.

        Whoever orders it has had new connections directed elsewhere.
        """
        self._retiring = True
        ends = time.monotonic() + timeout_s
        # gRPC has no event for a connection that ends.
        while sockets.connections(self._port) and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(_LEFT_POLL_S)

    async def drain(self, timeout_s: float) -> None:
        """Reports not ready, refuses requests, lets those in flight finish, then closes.

        The listener stays until they have: gRPC answers CANCELLED to calls that reach a server
        which stops, and clients could not tell that from a cancel of their own. Calls that
        outlast `timeout_s` are cancelled, and their slots come back. Asked again, it waits for
        the same end.
        """
        if self._stopping is None:
            self._readiness.drain()
            self._inference.stop_streams()
            self._stopping = asyncio.create_task(self._stop(timeout_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        await self._completions.settle(timeout_s)
        if self._server is not None:
            await self._server.stop(max(0.0, ends - time.monotonic()))

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        if self._tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(self._tls))

    @property
    def _port(self) -> int:
        return int(self.address.rpartition(":")[2] or 0)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        return (
            generic_handler(servicer.SERVICE, self._inference, raw=servicer.RAW_METHODS),
            generic_handler(
                health.SERVICE, health.HealthServicer(self._catalogue, self._readiness)
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
    ]
