"""How processes of gslice log: lines of text, or of JSON for programs that read them."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import argparse

FILE_MAX_BYTES = 4 << 20
FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
FIELDS = ("function", "subject", "kind", "request_id", "trace_id", "code")
"""What a line says beside its message, where whoever writes it knows: `extra` of the logger."""


class JsonLines(logging.Formatter):
    """One JSON object a line.

    Args:
        process: What writes: `daemon`, `front-end` or `worker`.

    Attributes:
        function: Whose lines they are, unless a line says otherwise; empty: nobody's.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self.function = ""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if self.function:
            line["function"] = self.function
        line |= {key: getattr(record, key) for key in FIELDS if getattr(record, key, "") != ""}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@dataclass(frozen=True)
class LogStyle:
    """What all processes of a node are told of logging.

    Attributes:
        format: A member of `FORMATS`.
        level: A member of `LEVELS`: less than that is not written.
    """

    format: str = "text"
    level: str = "info"

    @property
    def words(self) -> str:
        """To compare with what a process was started with."""
        return f"{self.format} {self.level}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """As a child's command line has it; `options` and `of` are the other side."""
        return ("--log-format", self.format, "--log-level", self.level)

    @staticmethod
    def options(parser: argparse.ArgumentParser) -> None:
        """What a child's command line takes."""
        parser.add_argument("--log-format", choices=FORMATS, default=FORMATS[0])
        parser.add_argument("--log-level", choices=LEVELS, default="info")

    @classmethod
    def of(cls, given: argparse.Namespace) -> LogStyle:
        """What it was told."""
        return cls(given.log_format, given.log_level)

    def formatter(self, process: str, text: str) -> logging.Formatter:
        """Of a process's handlers.

        Args:
            process: As of `JsonLines`.
            text: A line, where they are of text, as `logging.Formatter` takes it.
        """
        return JsonLines(process) if self.format == "json" else logging.Formatter(text)

    def apply(self, others: int = logging.INFO) -> None:
        """Sets the level of gslice's loggers.

        Args:
            others: The level of all others, unless ours is above it.
        """
        level = logging.getLevelNamesMapping()[self.level.upper()]
        logging.getLogger("gslice").setLevel(level)
        logging.getLogger().setLevel(max(level, others))

    def set_up(self, process: str, text: str, stream: TextIO | None = None) -> logging.Formatter:
        """Has a child's process log to its standard error, which is its file.

        Args:
            process: As of `formatter`.
            text: Likewise.
            stream: Instead of standard error.
        """
        handler, formatter = logging.StreamHandler(stream), self.formatter(process, text)
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
        self.apply()
        return formatter
