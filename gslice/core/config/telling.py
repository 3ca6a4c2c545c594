"""What a node tells of itself: its logs, and traces of requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gslice.core.config.document import Problem
from gslice.core.config.ranges import Section
from gslice.core.config.types import LogConfig
from gslice.core.config.words import PositiveSize, WebAddress
from gslice.core.errors import ConfigError
from gslice.core.logs import FILE_MAX_BYTES, LogStyle
from gslice.core.tracing import Tracing as Destination


class Logs(Section):
    """`node.logs`: what the daemon, front-ends and workers write."""

    format: Literal["text", "json"] = Field(default="text", description="json: one object a line.")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug: requests that fail are told one by one, too."
    )
    size: Annotated[PositiveSize, Field(description="Of a file: then it is moved away.")] = (
        FILE_MAX_BYTES
    )
    keep: int = Field(default=1, ge=1, le=99, description="Files that were moved away, of each.")


class Tracing(Section):
    """`node.tracing`: traces of requests, for a collector of OpenTelemetry."""

    otlp: Annotated[WebAddress, Field(description="OTLP over gRPC, as in http://127.0.0.1:4317.")]
    sample: Annotated[
        float,
        BeforeValidator(lambda value: float(value) if type(value) is int else value),
        Field(ge=0, le=1, description="Of requests whose callers say nothing of traces."),
    ] = 0.01


def log_config(logs: Logs) -> LogConfig:
    """What is logged, and how much is kept."""
    return LogConfig(LogStyle(logs.format, logs.level), logs.size, logs.keep)


def tracing(wanted: Tracing | None, problems: list[Problem]) -> Destination | None:
    """Where traces of requests go.

    Args:
        wanted: As in the file; None: it is not there.
        problems: Gets one if this installation cannot send them.
    """
    if wanted is None:
        return None
    found = Destination(wanted.otlp, wanted.sample)
    try:
        found.check()
    except ConfigError as error:
        problems.append(Problem(("node", "tracing"), str(error)))
    return found
