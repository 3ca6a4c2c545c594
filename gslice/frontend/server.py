"""The gRPC server's life: start, drain, close."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc

from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.frontend import health, reflection, servicer
from gslice.protos.rpc import generic_handler

if TYPE_CHECKING:
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.completions import Completions
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.servicer import InferenceServicer

SERVICES = (
    servicer.SERVICE,
    health.SERVICE,
    *(reflection.service_name(version) for version in reflection.VERSIONS),
)


class Server:
    """One gRPC server, started at most once.

    Args:
        inference: The inference service.
        completions: Its calls that wait for an answer.
        catalogue: What health answers from.
        readiness: Turned to not ready when the server drains.
    """

    def __init__(
        self,
        inference: InferenceServicer,
        completions: Completions,
        catalogue: Catalogue,
        readiness: Readiness,
    ) -> None:
        self._inference = inference
        self._completions = completions
        self._catalogue = catalogue
        self._readiness = readiness
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def state(self) -> str:
        """`starting`, `serving` or `draining`."""
        if self._readiness.draining:
            return "draining"
        return "serving" if self.address else "starting"

    async def start(self, address: str, request_max_bytes: int) -> str:
        """Listens and serves.

        Args:
            address: host:port; port 0 takes a free one.
            request_max_bytes: A larger message is answered RESOURCE_EXHAUSTED.

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
        server = grpc.aio.server(options=_options(request_max_bytes))
        server.add_generic_rpc_handlers(self._handlers())
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error}", hint="choose another address, or free it"
            ) from error
        await server.start()
        host = address.rpartition(":")[0]
        self._server, self.address = server, f"{host}:{port}"
        return self.address

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


def _options(request_max_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # several front-ends share the address
        ("grpc.max_receive_message_length", request_max_bytes),
        ("grpc.max_send_message_length", -1),  # what a model answers is bounded by its slots
    ]
