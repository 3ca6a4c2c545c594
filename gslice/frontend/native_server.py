"""The native server: a C++ thread speaks gRPC and serves inference; this process, all else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from gslice.frontend import health, reflection, servicer, sockets
from gslice.frontend.cold import ColdStarts
from gslice.frontend.desk import Desk
from gslice.frontend.server import SERVICES, Server
from gslice.protos import message
from gslice.protos.rpc import methods

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice import _native
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.desk import HandedOver, Note
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.settings import Limits

_GOING_S = 1.0  # for clients to hear that a server which has nothing left to answer goes


class NativeServer(Server):
    """One that this project wrote.

    Args:
        native: The loop, which has the data path.
        service: All of the service but inference.
        catalogue: The functions.
        readiness: As of `Server`.
        wake: Tells the daemon that a function that is not loaded is wanted.
        limits: Of requests.
    """

    def __init__(
        self,
        native: _native.GrpcServer,
        service: servicer.Servicer,
        catalogue: Catalogue,
        readiness: Readiness,
        wake: Callable[[str], None],
        limits: Limits,
    ) -> None:
        super().__init__(readiness)
        self._native = native
        self._catalogue = catalogue
        self._wake = wake
        self._gate = service.gate
        found = methods(servicer.SERVICE, service)
        found |= methods(health.SERVICE, health.HealthServicer(catalogue, readiness, service.gate))
        for version in reflection.VERSIONS:
            name = reflection.service_name(version)
            found |= methods(name, reflection.ReflectionServicer(version, SERVICES))
        self._desk = Desk(native, found, self._submit_unknown, limits.request_max_bytes)

    def close(self) -> None:
        """Answers nothing more."""
        self._desk.close()

    async def _listen(self, address: str) -> int:
        with await sockets.listen_at(address) as listener:
            bound = int(listener.getsockname()[1])
            self._native.listen(listener.detach())
        return bound

    def _leave(self) -> None:
        self._native.leave()

    def _refuse(self) -> None:
        self._native.drain()

    async def _stop(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._desk.idle.wait(), timeout_s)
        left_s = max(0.0, ends - time.monotonic())
        self._native.close(int(left_s * 1e9))
        await self._left(min(left_s, _GOING_S))

    def _submit_unknown(self, handed_over: HandedOver, request: bytes, note: Note) -> None:
        """Queues a request to a function that is cold; says what is the matter with another."""
        asked = message("inference.ModelInferRequest").FromString(request)
        self._gate.caller(note).check_function(asked.model_name)
        function = self._catalogue.find(asked.model_name, asked.model_version)
        if function.cold:
            ColdStarts(handed_over, self._wake).submit(function, request, note.deadline_ns)
        else:
            self._catalogue.explain(asked.model_name, asked.model_version)
            handed_over.submit(request)  # it has come meanwhile
