"""A share that the daemon enforces, for a worker whose user may not: see `HoldThreads`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gslice.device.tasks import pin
from gslice.ipc.messages import HoldThreads, ThreadsHeld


class BrokeredLimiter:
    """A quota of cores in a control group of the daemon's.

    Args:
        cpus: The device's cores.
        ask: Asks the daemon whose order is carried out.

    Attributes:
        period_us: Of the quota; 0: there is none.
    """

    name = "cgroup"
    live_resize = True

    def __init__(
        self, cpus: Sequence[int], ask: Callable[[HoldThreads, type[ThreadsHeld]], ThreadsHeld]
    ) -> None:
        self.period_us = 0
        self._cpus = set(cpus)
        self._ask = ask
        self._effective_percent = 100.0

    def apply(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """See `Limiter.apply`. The daemon holds them to the share that it ordered, this one."""
        pin(compute_tids, self._cpus)
        held = self._ask(HoldThreads(list(compute_tids)), ThreadsHeld)
        self.period_us, self._effective_percent = held.period_us, held.share_effective_percent
        return self._effective_percent

    def read_effective(self) -> float:
        """The share in percent as the daemon read it back last."""
        return self._effective_percent

    def release(self) -> None:
        """The group is the daemon's, and goes after this process."""
