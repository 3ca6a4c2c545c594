"""inference.GRPCInferenceService but for inference: answered from the catalogue and the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gslice.core.errors import InvalidArgument, NotFound, Unimplemented
from gslice.frontend import answers
from gslice.frontend.status import answered
from gslice.ipc.messages import ClientRegion, RepositoryCall
from gslice.protos import message

if TYPE_CHECKING:
    from gslice.frontend.catalogue import Catalogue
    from gslice.frontend.gate import Gate
    from gslice.frontend.readiness import Readiness
    from gslice.frontend.regions import Regions

SERVICE = "inference.GRPCInferenceService"


class Servicer:
    """The service's methods, under the protocol's names.

    Args:
        catalogue: The functions.
        readiness: Whether the server takes requests.
        repository: Passes a load or unload on to the daemon, and returns when it is done.
        regions: Clients' memory that requests may name.
        gate: Who may call what.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        readiness: Readiness,
        repository: Callable[[RepositoryCall], Awaitable[None]],
        regions: Regions,
        gate: Gate,
    ) -> None:
        self.gate = gate
        self._catalogue = catalogue
        self._readiness = readiness
        self._repository = repository
        self._regions = regions

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
        self.gate.caller(context).check_function(request.name)
        return answers.model_metadata(*self._catalogue.loaded(request.name, request.version))

    @answered
    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """A function's configuration, as far as it is true."""
        self.gate.caller(context).check_function(request.name)
        return answers.model_config(*self._catalogue.loaded(request.name, request.version))

    @answered
    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Counters of one function, or of all."""
        caller = self.gate.caller(context)
        if not request.name:
            return answers.model_statistics(self._catalogue.of(caller))
        caller.check_function(request.name)
        function, _ = self._catalogue.loaded(request.name, request.version)
        return answers.model_statistics([function])

    # ---- repository ----

    @answered
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """All functions and their states."""
        functions = self._catalogue.of(self.gate.caller(context))
        return answers.repository_index(functions, request.ready)

    @answered
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Adds or reloads a function; returns when it serves."""
        files = [key for key in request.parameters if key != "config"]
        if files:
            raise Unimplemented(f"load parameter {files[0]!r} is not offered, only 'config'")
        config = request.parameters["config"].string_param if request.parameters else ""
        await self._repository(self._order("load", request, context, config))
        return message("inference.RepositoryModelLoadResponse")()

    @answered
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Drains and removes a function."""
        await self._repository(self._order("unload", request, context))
        return message("inference.RepositoryModelUnloadResponse")()

    def _order(self, call: str, request: Any, context: Any, config: str = "") -> RepositoryCall:
        name, caller = _named(request), self.gate.caller(context)
        caller.check_function(name)
        return RepositoryCall(call, name, config, caller.name)

    # ---- clients' memory: of the caller's tenant, as if there were no other ----

    @answered
    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """One region, or all that are in /dev/shm."""
        tenant = self.gate.caller(context).tenant_name
        return answers.regions(self._regions.shown(request.name, tenant))

    @answered
    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Lets requests name a part of a file; returns when all front-ends do."""
        tenant = self.gate.caller(context).tenant_name
        place = request.key, request.offset, request.byte_size
        await self._regions.register(ClientRegion(request.name, *place, tenant=tenant))
        return message("inference.SystemSharedMemoryRegisterResponse")()

    @answered
    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """Forgets one region, or all that are in /dev/shm; an unknown name is no error."""
        await self._regions.unregister(request.name, self.gate.caller(context).tenant_name)
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
