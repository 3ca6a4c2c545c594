"""grpc.health.v1: SERVING or not, for the whole server and for each function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.core.errors import NotFound, Unavailable
from gslice.frontend.catalogue import Catalogue
from gslice.frontend.status import answered
from gslice.protos import message

if TYPE_CHECKING:
    from gslice.frontend.gate import Gate
    from gslice.frontend.readiness import Readiness

SERVICE = "grpc.health.v1.Health"
WHOLE_SERVER = ("", "inference.GRPCInferenceService")


class HealthServicer:
    """Answers from the catalogue and the server's readiness."""

    def __init__(self, catalogue: Catalogue, readiness: Readiness, gate: Gate) -> None:
        self.gate = gate
        self._catalogue = catalogue
        self._readiness = readiness
        self._answer = message("grpc.health.v1.HealthCheckResponse")

    @answered
    async def Check(self, request: Any, context: Any) -> Any:
        """The state of one function, or of the server."""
        return self._answer(status=self._status(request.service))

    @answered
    async def List(self, request: Any, context: Any) -> Any:
        """Every state there is, of functions that are for the caller."""
        answer = message("grpc.health.v1.HealthListResponse")()
        caller = self.gate.caller(context)
        names = (function.spec.name for function in self._catalogue)
        for name in (*WHOLE_SERVER, *filter(caller.may_use, names)):
            answer.statuses[name].status = self._status(name)
        return answer

    @answered
    async def Watch(self, request: Any, context: Any) -> None:
        """The state now and at each change, until the client leaves or the server drains."""
        told = None
        while True:
            change = self._catalogue.change
            try:
                status = self._status(request.service)
            except NotFound:
                status = "SERVICE_UNKNOWN"
            if status != told:
                await context.write(self._answer(status=status))
                told = status
            if self._readiness.draining:
                raise Unavailable("the server is draining")
            await change.wait()

    def _status(self, name: str) -> str:
        if name in WHOLE_SERVER:
            serving = self._readiness.ready()
        else:
            serving = self._catalogue.find(name).ready and not self._readiness.draining
        return "SERVING" if serving else "NOT_SERVING"
