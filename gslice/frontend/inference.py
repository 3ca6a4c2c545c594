"""Inference on grpc.aio: ModelInfer and ModelStreamInfer, from bytes to bytes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gslice.core.errors import NotFound, Unavailable
from gslice.frontend.cold import ColdStarts
from gslice.frontend.servicer import Servicer
from gslice.frontend.status import answered
from gslice.frontend.stream import Stream
from gslice.protos import message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gslice import _native
    from gslice.frontend.catalogue import Catalogue, Function
    from gslice.frontend.completions import Completions
    from gslice.frontend.gate import Gate
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.regions import Regions
    from gslice.ipc.messages import RepositoryCall

NO_DEADLINE_S = 1e9  # some clients send a distant deadline in place of none
RAW_METHODS = ("ModelInfer", "ModelStreamInfer")  # serialised messages in and out


class InferenceServicer(Servicer):
    """The whole service.

    Args:
        native: The data path.
        completions: Where its answers are waited for.
        catalogue: The functions.
        readiness: Whether the server takes requests.
        repository: Passes a load or unload on to the daemon, and returns when it is done.
        wake: Tells the daemon that a function that is not loaded is wanted.
        regions: Clients' memory that requests may name.
        gate: Who may call what.
    """

    def __init__(
        self,
        native: _native.Frontend,
        completions: Completions,
        catalogue: Catalogue,
        readiness: Readiness,
        repository: Callable[[RepositoryCall], Awaitable[None]],
        wake: Callable[[str], None],
        regions: Regions,
        gate: Gate,
    ) -> None:
        super().__init__(catalogue, readiness, repository, regions, gate)
        self._native = native
        self._completions = completions
        self._wake = wake
        self._streams: set[Stream] = set()

    @answered
    async def ModelInfer(self, request: bytes, context: Any) -> bytes:
        """One request, one answer: the hot path."""
        ticket = self._admit(request, context)
        await self._completions.wait(ticket, self._completions.expect(ticket))
        return self._native.respond(ticket)

    @answered
    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:
        """Many requests on one call, many of them in flight, answered in order."""
        stream = Stream(self._native, self._completions, self._admit, context)
        self._streams.add(stream)
        try:
            await stream.run(requests)
        finally:
            self._streams.discard(stream)

    def stop_streams(self) -> None:
        """Streams take no more requests; what they took is answered, then they end."""
        for stream in self._streams:
            stream.stop()

    def _admit(self, request: bytes, context: Any) -> int:
        if self._readiness.draining:
            raise Unavailable("the server is draining")
        tenant = self.gate.tenant(context)  # of each request: a stream may outlive its key
        remaining_s = context.time_remaining()
        deadline_ns = None
        if remaining_s is not None and remaining_s < NO_DEADLINE_S:
            deadline_ns = time.monotonic_ns() + int(remaining_s * 1e9)
        try:
            return self._native.submit(request, deadline_ns, tenant)
        except NotFound:
            asked = message("inference.ModelInferRequest").FromString(request)
            self.gate.caller(context).check_function(asked.model_name)
            function = self._catalogue.find(asked.model_name, asked.model_version)
            if function.cold:
                path = _ColdPath(self._native, self._catalogue, tenant)
                return ColdStarts(path, self._wake).submit(function, request, deadline_ns)
            self._catalogue.explain(asked.model_name, asked.model_version)
            raise


class _ColdPath:
    """The functions of the catalogue that rest. All of it is one thread's: nobody comes between."""

    def __init__(self, native: _native.Frontend, catalogue: Catalogue, tenant: int) -> None:
        self._native = native
        self._catalogue = catalogue
        self._tenant = tenant
        self.deadline_ns = native.deadline_ns
        self.cancel = native.cancel

    def queue(self, function: Function, request: bytes, deadline_ns: int | None) -> int:
        """As `ColdPath` has it."""
        with self._catalogue.reached(function):
            return self._native.submit(request, deadline_ns, self._tenant)
