"""What enforces a share on the CPU device: `cgroup`, `threads`, or nothing.

A limiter acts on compute threads only: the lanes and the engine's own. The pump and the control
loop stay outside, so that a throttled function still answers, completes and drains.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gslice.core.errors import FailedPrecondition, InvalidArgument
from gslice.device.cgroup import CgroupLimiter, find_root
from gslice.device.tasks import pin

WEIGHTS = {"low": 1 / 3, "normal": 1.0, "high": 3.0}
"""A priority's part of a contended core, against a normal function's."""

NICENESS = {"low": 5, "normal": 0, "high": -5}  # a step of nice is a factor of 1.25


def prioritise(compute_tids: Sequence[int], priority: str) -> bool:
    """Gives compute threads the scheduler's priority that stands for a function's.

    It counts where cores are contended; the share limits all the same.

    Args:
        compute_tids: Kernel ids of all compute threads.
        priority: A key of `WEIGHTS`.

    Returns:
        False: this user may not raise a priority above normal, so they stay there.
    """
    try:
        for tid in compute_tids:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, tid, NICENESS[priority])
    except PermissionError:
        return False
    return True


class Limiter(Protocol):
    """Enforces one instance's share of its device.

    Attributes:
        name: As operators write it.
        live_resize: True: `apply` changes the share of a serving instance.
        period_us: How often a share is given anew to whoever had used it up; 0: it always runs.
    """

    name: str
    live_resize: bool
    period_us: int

    def apply(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """Limits the threads to the share.

        Args:
            share_percent: Of the device's cores.
            compute_tids: Kernel ids of all compute threads.

        Returns:
            The share in percent, as read back.
        """

    def read_effective(self) -> float:
        """The share in percent that is in force now, from where it is enforced."""

    def release(self) -> None:
        """Gives back what it holds; idempotent."""


def whole_cores(cpus: Sequence[int], share_percent: float, seed: int) -> set[int]:
    """As many of a device's cores as a share is worth, at least one.

    Args:
        cpus: The device's cores.
        share_percent: Of them.
        seed: Whoever has another begins with another core.
    """
    count = max(1, int(len(cpus) * share_percent / 100 + 1e-9))
    first = seed % len(cpus)  # neighbours do not all meet on the first core
    return {cpus[(first + i) % len(cpus)] for i in range(count)}


class ThreadsLimiter:
    """Whole cores: the compute threads may run on as many as the share is worth, at least one.

    Args:
        cpus: The device's cores.
    """

    name = "threads"
    live_resize = True
    period_us = 0

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = list(cpus)
        self._tids: list[int] = []

    def apply(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """See `Limiter.apply`."""
        self._tids = list(compute_tids)
        pin(self._tids, whole_cores(self._cpus, share_percent, os.getpid()))
        return self.read_effective()

    def read_effective(self) -> float:
        """See `Limiter.read_effective`."""
        allowed = []
        for tid in self._tids:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                allowed.append(len(os.sched_getaffinity(tid)))
        return 100.0 * max(allowed, default=len(self._cpus)) / len(self._cpus)

    def release(self) -> None:
        """Nothing outlives the threads."""


class NoLimiter:
    """The share is not enforced; compute threads stay on the device's cores.

    Args:
        cpus: The device's cores.
    """

    name = "none"
    live_resize = True
    period_us = 0

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = set(cpus)

    def apply(self, share_percent: float, compute_tids: Sequence[int]) -> float:
        """See `Limiter.apply`; the share is not looked at."""
        pin(compute_tids, self._cpus)
        return self.read_effective()

    def read_effective(self) -> float:
        """All of the device."""
        return 100.0

    def release(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Availability:
    """Whether a limiter works here.

    Attributes:
        name: The limiter's.
        available: True: it does.
        reason: What it would use, or why it does not work.
    """

    name: str
    available: bool
    reason: str


def availability() -> list[Availability]:
    """Every limiter of the CPU device, best first."""
    root, reason = find_root()
    return [
        Availability("cgroup", root is not None, reason),
        Availability("threads", True, "whole cores, by CPU affinity"),
        Availability("none", True, "shares are not enforced"),
    ]


@functools.cache
def resolved(name: str) -> str:
    """The limiter of the CPU device that a name stands for; `auto`: the best that works here."""
    if name != "auto":
        return name
    return next(limiter.name for limiter in availability() if limiter.available)


def make_limiter(name: str, cpus: Sequence[int], group: str, priority: str = "normal") -> Limiter:
    """The limiter of that name.

    Args:
        name: `auto` (the best that works here), `cgroup`, `threads` or `none`.
        cpus: The device's cores.
        group: What to call the function in the cgroup's name.
        priority: The function's, a key of `WEIGHTS`.

    Raises:
        FailedPrecondition: It does not work here; the message says why.
        InvalidArgument: There is none of that name, or the device has no cores.
    """
    if not cpus:
        raise InvalidArgument("a CPU device needs at least one core")
    if name in ("auto", "cgroup"):
        root, reason = find_root()
        if root is not None:
            return CgroupLimiter(root, cpus, group, WEIGHTS[priority])
        if name == "cgroup":
            raise FailedPrecondition(
                f"limiter cgroup does not work here: {reason}",
                hint="set `limiter: threads`, or delegate a cgroup with the cpu controller",
            )
    if name in ("auto", "threads"):
        return ThreadsLimiter(cpus)
    if name == "none":
        return NoLimiter(cpus)
    raise InvalidArgument(f"no limiter is called {name!r}", hint="auto, cgroup, threads or none")
