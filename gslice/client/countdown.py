"""The time that one call has, whatever steps it takes."""

from __future__ import annotations

import time


class Countdown:
    """Runs from now on.

    Args:
        timeout_s: For all steps together; None: no limit.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """For the next step; 0: none, and gRPC says so. None: no limit."""
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def part_s(self, most_s: float) -> float:
        """For a step that the call can do without: half of what is left, but `most_s` at most."""
        left_s = self.left_s
        return most_s if left_s is None else min(left_s / 2, most_s)
