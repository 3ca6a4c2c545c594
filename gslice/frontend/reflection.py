"""gRPC reflection, both versions, from the descriptors that the server itself uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gslice.protos import message, pool, service

VERSIONS = ("v1", "v1alpha")
NOT_FOUND, UNIMPLEMENTED = 5, 12


def service_name(version: str) -> str:
    """Full name of the reflection service of a version."""
    return f"grpc.reflection.{version}.ServerReflection"


class ReflectionServicer:
    """Answers questions about the services that are served, and about nothing else.

    Args:
        version: `v1` or `v1alpha`.
        services: Full names of all services of the server.
    """

    def __init__(self, version: str, services: tuple[str, ...]) -> None:
        self._response = message(f"grpc.reflection.{version}.ServerReflectionResponse")
        self._services = services
        self._files = {file.name: file for name in services for file in _with_imports(name)}
        self._lookups: dict[str, Callable[[str], Any]] = {
            "file_by_filename": self._files.get,
            "file_containing_symbol": self._find_symbol,
        }

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> None:
        """Answers each question in turn."""
        async for request in requests:
            await context.write(self._answer(request))

    def _answer(self, request: Any) -> Any:
        answer = self._response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                answer.list_services_response.service.add(name=name)
        elif asked in self._lookups:
            wanted = getattr(request, asked)
            file = self._lookups[asked](wanted)
            if file is None:
                _fail(answer, NOT_FOUND, f"{wanted!r} is not served here")
            else:
                answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        else:
            _fail(answer, UNIMPLEMENTED, "proto3 services have no extensions")
        return answer

    def _find_symbol(self, symbol: str) -> Any:
        try:
            file = pool().FindFileContainingSymbol(symbol)
        except KeyError:
            return None
        return self._files.get(file.name)


def _with_imports(name: str) -> Iterator[Any]:
    pending = [service(name).file]
    while pending:
        file = pending.pop()
        yield file
        pending += file.dependencies


def _fail(answer: Any, code: int, text: str) -> None:
    answer.error_response.error_code = code
    answer.error_response.error_message = text
