"""inference.GRPCInferenceService: inference from bytes to bytes, the rest from the catalogue."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gslice.core.errors import InvalidArgument, NotFound, Unavailable, Unimplemented
from gslice.frontend import answers
from gslice.frontend.cold import ColdStarts
from gslice.frontend.status import answered
from gslice.frontend.stream import Stream
from gslice.ipc.messages import ClientRegion, RepositoryCall
from gslice.protos import message

if TYPE_CHECKING:
    from gslice import _native
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.completions import Completions
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.regions import Regions

SERVICE = "inference.GRPCInferenceService"
NO_DEADLINE_S = 1e9  # some clients send a distant deadline in place of none
RAW_METHODS = ("ModelInfer", "ModelStreamInfer")  # serialised messages in and out


class InferenceServicer:
    """The service's methods, under the protocol's names.

    Args:
        native: The data path.
        completions: Where its answers are waited for.
        catalogue: The functions.
        readiness: Whether the server takes requests.
        repository: Passes a load or unload on to the daemon, and returns when it is done.
        wake: Tells the daemon that a function that is not loaded is wanted.
        regions: Clients' memory that requests may name.
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
    ) -> None:
        self._native = native
        self._completions = completions
        self._catalogue = catalogue
        self._readiness = readiness
        self._repository = repository
        self._regions = regions
        self._cold = ColdStarts(native, catalogue, wake)
        self._streams: set[Stream] = set()

    # ---- inference ----

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
        remaining_s = context.time_remaining()
        deadline_ns = None
        if remaining_s is not None and remaining_s < NO_DEADLINE_S:
            deadline_ns = time.monotonic_ns() + int(remaining_s * 1e9)
        try:
            return self._native.submit(request, deadline_ns)
        except NotFound:
            asked = message("inference.ModelInferRequest").FromString(request)
            function = self._catalogue.find(asked.model_name, asked.model_version)
            if function.cold:
                return self._cold.submit(function, request, deadline_ns)
            self._catalogue.explain(asked.model_name, asked.model_version)
            raise

    # ---- liveness, readiness, metadata ----

    @answered
    async def ServerLive(self, request: Any, context: Any) -> Any:
        """This process answers."""
        return message("inference.ServerLiveResponse")(live=True)

    @answered
    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Requests are welcome."""
        return message("inference.ServerReadyResponse")(ready=self._readiness.ready())

    @answered
    async def ModelReady(self, request: Any, context: Any) -> Any:
        """One function takes requests; of a command: it says that it is well."""
        function = self._catalogue.find(request.name, request.version)
        ready = function.ready and not self._readiness.draining
        return message("inference.ModelReadyResponse")(ready=ready)

    @answered
    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name, version, extensions."""
        return answers.server_metadata(client_memory=self._regions.offered)

    @answered
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """A function's inputs and outputs."""
        return answers.model_metadata(*self._catalogue.loaded(request.name, request.version))

    @answered
    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """A function's configuration, as far as it is true."""
        return answers.model_config(*self._catalogue.loaded(request.name, request.version))

    @answered
    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Counters of one function, or of all."""
        if not request.name:
            return answers.model_statistics(self._catalogue)
        function, _ = self._catalogue.loaded(request.name, request.version)
        return answers.model_statistics([function])

    # ---- repository ----

    @answered
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """All functions and their states."""
        return answers.repository_index(self._catalogue, request.ready)

    @answered
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Adds or reloads a function; returns when it serves."""
        files = [key for key in request.parameters if key != "config"]
        if files:
            raise Unimplemented(f"load parameter {files[0]!r} is not offered, only 'config'")
        config = request.parameters["config"].string_param if request.parameters else ""
        await self._repository(RepositoryCall("load", _named(request), config))
        return message("inference.RepositoryModelLoadResponse")()

    @answered
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Drains and removes a function."""
        await self._repository(RepositoryCall("unload", _named(request)))
        return message("inference.RepositoryModelUnloadResponse")()

    # ---- clients' memory ----

    @answered
    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """One region, or all that are in /dev/shm."""
        return answers.regions(self._regions.shown(request.name))

    @answered
    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Lets requests name a part of a file; returns when all front-ends do."""
        region = ClientRegion(request.name, request.key, request.offset, request.byte_size)
        await self._regions.register(region)
        return message("inference.SystemSharedMemoryRegisterResponse")()

    @answered
    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """Forgets one region, or all that are in /dev/shm; an unknown name is no error."""
        await self._regions.unregister(request.name)
        return message("inference.SystemSharedMemoryUnregisterResponse")()

    # ---- what is not offered, as clients that probe for it expect ----

    @answered
    async def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """No region is registered."""
        if request.name:
            raise NotFound(f"no CUDA memory region is called {request.name!r}: none can be")
        return message("inference.CudaSharedMemoryStatusResponse")()

    @answered
    async def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Not offered."""
        raise Unimplemented("clients' CUDA shared memory is not offered; send tensors raw")

    @answered
    async def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """Nothing is registered, so nothing is left to do."""
        return message("inference.CudaSharedMemoryUnregisterResponse")()

    @answered
    async def TraceSetting(self, request: Any, context: Any) -> Any:
        """Not offered."""
        raise Unimplemented("trace settings are not offered; /metrics has latencies by stage")

    @answered
    async def LogSettings(self, request: Any, context: Any) -> Any:
        """Not offered."""
        raise Unimplemented("log settings are not offered over gRPC")


def _named(request: Any) -> str:
    if not request.model_name:
        raise InvalidArgument("model_name is empty: name the function")
    return str(request.model_name)
