"""What every step's process does: read its arguments, keep its time, end in order when told."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.steps import STEPS


class Clock:
    """The time that a step may take.

    Args:
        seconds: From now on.
        now: Seconds, ascending.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    @property
    def left_s(self) -> float:
        """What is left; never negative."""
        return max(0.0, self._end - self._now())

    def share_s(self, of: int, least: float = 0.0) -> float:
        """One of `of` equal parts of what is left."""
        return max(least, self.left_s / max(1, of))


class Skipped(Exception):
    """Something that a step needs is not there; the message says what."""


def needed(module: str) -> Any:
    """Imports what only some machines have.

    Raises:
        Skipped: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Skipped(f"this step needs the package {error.name}") from error


def main(name: str, measure: Callable[[GpuReport, Clock], None]) -> None:
    """Runs a step's measurement and shows its rows.

    Args:
        name: Of the step.
        measure: Adds rows to the report while the clock has time left.
    """
    step = next(step for step in STEPS if step.name == name)
    parser = argparse.ArgumentParser(description=step.question)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    parser.add_argument("--seconds", type=float, default=60.0, help="plan for so long")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    report = GpuReport(name, step.question, options.json, {"seconds": options.seconds})
    try:
        measure(report, Clock(options.seconds))
    except Skipped as reason:
        sys.exit(f"{name}: {reason}")
    report.report.show()


def _leave(_number: int, _frame: FrameType | None) -> None:
    """So that servers are stopped by the code that started them."""
    sys.exit(143)
