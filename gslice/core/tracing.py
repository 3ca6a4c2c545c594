"""Where traces of requests go."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from gslice.core.errors import ConfigError
from gslice.core.logs import LogStyle

EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"


@dataclass(frozen=True)
class Tracing:
    """What front-ends are told of traces.

    Attributes:
        otlp: URL of a collector that takes OTLP over gRPC.
        sample: Part of the requests whose callers say nothing of traces that is traced, 0 to 1.
    """

    otlp: str
    sample: float

    def check(self) -> None:
        """Checks that this installation can send them.

        Raises:
            ConfigError: OpenTelemetry is not installed.
        """
        try:
            found = importlib.util.find_spec(EXPORTER)
        except ModuleNotFoundError:  # not even what it is in
            found = None
        if found is None:
            raise ConfigError(
                "traces need OpenTelemetry, which is not installed",
                hint="pip install 'gslice[otel]'",
            )


def telemetry_words(style: LogStyle, tracing: Tracing | None) -> str:
    """What a front-end tells of itself, to compare with what it was started with."""
    words = style.words
    return words if tracing is None else f"{words} {tracing.otlp} {tracing.sample:g}"
