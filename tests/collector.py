"""A stub of an OpenTelemetry collector: takes OTLP over gRPC, and keeps what it gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

WAIT_S = 30.0
_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Collector:
    """Listens on a free port until it is closed.

    Attributes:
        url: What `node.tracing.otlp` is to be.
        spans: Those that came.
        resources: What they came from.
    """

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self._came = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        service, method = _METHOD[1:].split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: export}),)
        )
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def wait(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        """The spans, once they are enough."""
        with self._came:
            assert self._came.wait_for(lambda: enough(self.spans), WAIT_S), self.spans
            return list(self.spans)

    def requests(self, count: int) -> list[Any]:
        """The spans of that many requests, once they are here with all their stages."""
        self.wait(lambda spans: sum(each.kind == each.SPAN_KIND_SERVER for each in spans) >= count)
        return [each for each in self.spans if each.kind == each.SPAN_KIND_SERVER]

    def stages(self, request: Any) -> dict[str, Any]:
        """The spans below a request's, by name."""
        return {each.name: each for each in self.spans if each.parent_span_id == request.span_id}

    def _export(self, request: Any, _context: Any) -> Any:
        with self._came:
            for resource in request.resource_spans:
                self.resources.append(values(resource.resource.attributes))
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
            self._came.notify_all()
        return ExportTraceServiceResponse()


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
