"""Requests as OpenTelemetry's spans, sent to a collector by a thread of the SDK's."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gslice import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from gslice.frontend.journal import Record, Stamps

STAGES = ("receive", "queue", "copy_in", "compute", "copy_out", "answer")
"""Each begins at one of `Stamps` and ends where the next that was reached begins."""

_END_S = 2.0
_SPANS_MAX = 16_384  # more than two looks into a full journal give


class Traces:
    """Makes a span of each request, with one of each of its stages below it.

    What is traced was decided before. OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES,
    OTEL_SERVICE_NAME and others are the SDK's own settings.

    Args:
        otlp: URL of a collector that takes OTLP over gRPC.
        exporter: Instead of it.
    """

    def __init__(self, otlp: str, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "gslice"),
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        sender = exporter or OTLPSpanExporter(endpoint=otlp)
        self._provider.add_span_processor(BatchSpanProcessor(sender, max_queue_size=_SPANS_MAX))
        self._tracer = self._provider.get_tracer("gslice", __version__)

    def add(self, records: Sequence[Record]) -> None:
        """Sends what was recorded, soon."""
        wall_ns = time.time_ns() - time.monotonic_ns()
        for record in records:
            self._add(record, wall_ns)

    def close(self) -> None:
        """Sends what is left, if the collector takes it in time."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_END_S)

    def _add(self, record: Record, wall_ns: int) -> None:
        attributes: dict[str, str | int] = {
            "gslice.function": record.function,
            "gslice.version": record.version,
            "gslice.rows": record.rows,
            "gslice.code": record.code,
        }
        if record.request_id:
            attributes["gslice.request_id"] = record.request_id
        span = self._tracer.start_span(
            f"infer {record.function}",
            _parent(record),
            SpanKind.SERVER,
            attributes,
            start_time=record.stamps.received + wall_ns,
        )
        inside = set_span_in_context(span, Context())
        for name, begin_ns, end_ns in stages(record.stamps):
            stage = self._tracer.start_span(name, inside, start_time=begin_ns + wall_ns)
            stage.end(end_ns + wall_ns)
        if record.code:
            span.set_status(Status(StatusCode.ERROR, record.message))
        span.end(record.stamps.answered + wall_ns)


def stages(stamps: Stamps) -> Iterator[tuple[str, int, int]]:
    """The stages that a request went through: name, begin and end."""
    begun = [(name, at) for name, at in zip(STAGES, stamps, strict=False) if at]
    ends = [at for _, at in begun[1:]] + [stamps.answered]
    for (name, begin_ns), end_ns in zip(begun, ends, strict=True):
        yield name, begin_ns, end_ns


def _parent(record: Record) -> Context:
    """Where the request belongs; nowhere if a trace begins with it."""
    if not any(record.trace_id):
        return Context()
    above = SpanContext(
        int.from_bytes(record.trace_id),
        int.from_bytes(record.parent_id),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(above), Context())
