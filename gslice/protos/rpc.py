"""Handlers and stubs from a service's descriptor, instead of generated code; errors as statuses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import grpc

from gslice.protos import message, service

if TYPE_CHECKING:
    from gslice.core.errors import GsliceError

DETAILS_CHARS = 2000  # a status travels in HTTP/2 headers, which clients bound to 8 KiB
PUSHBACK = "grpc-retry-pushback-ms"  # of gRPC's retry policy; only those that have one obey
_STATUS: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_CALLS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def generic_handler(name: str, servicer: object, raw: Collection[str] = ()) -> Any:
    """A handler for `server.add_generic_rpc_handlers`, sync or asyncio as the servicer is.

    Args:
        name: Full name of the service.
        servicer: Has a method for each of the service's, under the same name.
        raw: Methods that take and give serialised messages, untouched.

    Returns:
        The generic handler.
    """
    methods = {}
    for method in service(name).methods:
        whole = method.name in raw
        make = _HANDLERS[method.client_streaming, method.server_streaming]
        methods[method.name] = make(
            getattr(servicer, method.name),
            None if whole else message(method.input_type.full_name).FromString,
            None if whole else message(method.output_type.full_name).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(name, methods)


class Method(NamedTuple):
    """One method of a service, for servers that are not gRPC's own.

    Attributes:
        path: As `:path` has it.
        serve: The servicer's.
        parse: Reads a request.
        client_streaming: It takes many of them, as an asynchronous iterator.
    """

    path: str
    serve: Callable[[Any, Any], Any]
    parse: Callable[[bytes], Any]
    client_streaming: bool


def methods(name: str, servicer: object) -> dict[str, Method]:
    """A service's methods by path: those that the servicer has.

    Args:
        name: Full name of the service.
        servicer: As of `generic_handler`.
    """
    found = {}
    for method in service(name).methods:
        if serve := getattr(servicer, method.name, None):
            path = f"/{name}/{method.name}"
            parse = message(method.input_type.full_name).FromString
            found[path] = Method(path, serve, parse, method.client_streaming)
    return found


async def abort(context: Any, error: GsliceError) -> NoReturn:
    """Ends an asyncio call with an error's status, and what clients that retry know to read."""
    trailing = () if error.retry_after_ms is None else ((PUSHBACK, str(error.retry_after_ms)),)
    await context.abort(_STATUS[error.code], str(error)[:DETAILS_CHARS], trailing)
    raise error  # not reached: abort raises


class _With:
    """A call that carries headers."""

    def __init__(self, call: Any, metadata: Sequence[tuple[str, str]]) -> None:
        self._call = call
        self._metadata = metadata

    def __call__(self, request: Any, **options: Any) -> Any:
        return self._call(request, metadata=self._metadata, **options)

    def future(self, request: Any, **options: Any) -> Any:
        return self._call.future(request, metadata=self._metadata, **options)


class Stub:
    """The calls of a service on a channel, each an attribute named like its method.

    Args:
        channel: A `grpc.Channel` or `grpc.aio.Channel`.
        name: Full name of the service.
        metadata: Goes along with every call.
    """

    def __init__(self, channel: Any, name: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        for method in service(name).methods:
            call = getattr(channel, _CALLS[method.client_streaming, method.server_streaming])
            multicallable = call(
                f"/{name}/{method.name}",
                request_serializer=message(method.input_type.full_name).SerializeToString,
                response_deserializer=message(method.output_type.full_name).FromString,
            )
            if metadata:
                multicallable = _With(multicallable, metadata)
            setattr(self, method.name, multicallable)

    def __getattr__(self, name: str) -> Any:
        """Only reached for calls the service lacks; tells mypy that the others exist."""
        raise AttributeError(f"the service has no call {name!r}")
