"""When an instance counts as hung: the pump's stamps, judged over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Stamps:
    """What an instance's entry in the segment shows; 0: never.

    Attributes:
        pump_ns: The pump's last turn.
        last_claim_ns: Its last claim.
        lane_started_ns: Since when each lane is busy; 0: idle.
        sleeping: The pump waits for work.
        ready_since_ns: Since when it could have claimed; 0: it can not now.
        first_wait_ns: How long the first claim after a flip had waited for it; -1: none yet.
    """

    pump_ns: int
    last_claim_ns: int
    lane_started_ns: Sequence[int]
    sleeping: bool
    ready_since_ns: int = 0
    first_wait_ns: int = -1


class HangWatch:
    """Judges one instance.

    Args:
        timeout_ns: No progress for that long is a hang.
    """

    def __init__(self, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        self._last_claim_ns = -1
        self._ignored_since_ns: int | None = None

    def hangs(self, now_ns: int, queued: int, stamps: Stamps) -> bool:
        """Whether it hangs: in a lane, in its pump, or deaf to a queue that does not empty.

        Args:
            now_ns: The time, on the stamps' clock.
            queued: Requests that it could claim.
            stamps: As read now.
        """
        limit_ns = now_ns - self._timeout_ns
        lane_stuck = any(0 < started < limit_ns for started in stamps.lane_started_ns)
        pump_stuck = not stamps.sleeping and 0 < stamps.pump_ns < limit_ns
        return lane_stuck or pump_stuck or self._ignores_queue(now_ns, queued, stamps)

    def _ignores_queue(self, now_ns: int, queued: int, stamps: Stamps) -> bool:
        """Something was queued at every look since long ago, and nothing was claimed."""
        if queued == 0 or stamps.last_claim_ns != self._last_claim_ns:
            self._last_claim_ns = stamps.last_claim_ns
            self._ignored_since_ns = now_ns if queued else None
        elif self._ignored_since_ns is None:
            self._ignored_since_ns = now_ns
        since_ns = self._ignored_since_ns
        return since_ns is not None and now_ns - since_ns > self._timeout_ns
