"""When to start a dead process again, and when to stop trying."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SECOND_US = 1_000_000


@dataclass(frozen=True)
class RestartPolicy:
    """How a crash loop is told from a crash.

    Attributes:
        first_delay_us: Wait before the second restart in a window; the first is immediate.
        max_delay_us: Longest wait.
        deaths_max: Deaths of one process within the window that make it a crash loop.
        window_us: Deaths older than this are forgotten.
        settled_us: A process that has served this long did not die in a loop: its death is a first
            one again. None: none is that good.
    """

    first_delay_us: int = SECOND_US // 10
    max_delay_us: int = 5 * SECOND_US
    deaths_max: int = 5
    window_us: int = 60 * SECOND_US
    settled_us: int | None = None


class Breaker:
    """Remembers the deaths of processes that do the same, and decides what follows."""

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        self._policy = policy or RestartPolicy()
        self._deaths_us: deque[int] = deque()

    def death(self, now_us: int, processes: int = 1, served_us: int = 0) -> int | None:
        """Takes a death into account.

        Args:
            now_us: The time, on any clock that never goes back.
            processes: How many there are. What kills one may kill all at once, and that is a
                first death for each of them.
            served_us: How long the dead one had served.

        Returns:
            How long to wait before the restart, in microseconds; None: a crash loop, give up.
        """
        settled_us = self._policy.settled_us
        if settled_us is not None and served_us >= settled_us:
            self.reset()
        deaths_max = self._policy.deaths_max * processes
        self._deaths_us.append(now_us)
        while (
            now_us - self._deaths_us[0] >= self._policy.window_us
            or len(self._deaths_us) > deaths_max
        ):
            self._deaths_us.popleft()
        if len(self._deaths_us) == deaths_max:
            return None
        each = -(-len(self._deaths_us) // processes)
        if each == 1:
            return 0
        return min(self._policy.first_delay_us << (each - 2), self._policy.max_delay_us)

    def reset(self) -> None:
        """Forgets all deaths: an operator wants another try."""
        self._deaths_us.clear()
