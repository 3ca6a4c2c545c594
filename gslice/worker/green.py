"""The SMs of a process's GPU in groups, and its functions each on those that its share is worth."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gslice import _native
from gslice.core.errors import FailedPrecondition
from gslice.device.mps import check_no_share
from gslice.device.sm_groups import Allotment, Seat, Split

GREEN = "green"


class GreenGpu:
    """The GPU of a process whose functions are limited by green contexts: split once, for all.

    Split when the first of them comes, and given back when the last has gone. Functions have
    threads of their own, so this takes a lock, but never while a driver or an engine works.

    Args:
        ordinal: As this process sees it. Other processes know nothing of its groups.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._lock = threading.Lock()
        self._groups: _native.SmGroups | None = None
        self._allotment: Allotment | None = None
        self._users: set[GreenShare] = set()

    @property
    def in_use(self) -> bool:
        """Whether a function is on it."""
        return bool(self._users)

    def join(self, user: GreenShare, sms: int) -> None:
        """Counts a function in.

        Args:
            user: Its part.
            sms: Of the whole GPU.

        Raises:
            FailedPrecondition: There is no driver, its green contexts are missing, or MPS limits
                this process.
        """
        check_no_share(os.environ)  # by now it has all that the process was given
        with self._lock:
            if self._groups is None:
                self._split(sms)
            self._users.add(user)

    def leave(self, user: GreenShare) -> None:
        """A function has gone; idempotent."""
        with self._lock:
            self._users.discard(user)
            if self._allotment is not None:
                self._allotment.give_back(user)
            if not self._users and self._groups is not None:
                self._groups.close()
                self._groups = self._allotment = None

    def planned(self, user: GreenShare, share_percent: float) -> frozenset[int]:
        """The groups that a share is worth; from now on they are taken, beside those it has."""
        with self._lock:
            allotment = self._opened()[1]
            groups = allotment.planned(user, user.seat, share_percent)
            allotment.take(user, user.seat, share_percent, groups | allotment.held(user))
        return groups

    def take(self, user: GreenShare, share_percent: float, groups: frozenset[int]) -> None:
        """A function is on these groups, and on no others."""
        with self._lock:
            self._opened()[1].take(user, user.seat, share_percent, groups)

    @property
    def groups(self) -> _native.SmGroups:
        """Where green contexts are made."""
        return self._opened()[0]

    def _opened(self) -> tuple[_native.SmGroups, Allotment]:
        if self._groups is None or self._allotment is None:
            raise FailedPrecondition("the groups of SMs are given back")
        return self._groups, self._allotment

    def _split(self, sms: int) -> None:
        groups = _native.SmGroups(self.ordinal)
        seen = groups.sms
        if seen < sms:
            groups.close()
            raise FailedPrecondition(
                f"limiter green needs the whole GPU, and this process sees {seen} of its {sms} SMs",
                hint="end the MPS control daemon that limits it, or set `limiter: mps`",
            )
        self._groups = groups
        self._allotment = Allotment(Split(groups.count, groups.group_sms, seen))


class GreenShare:
    """What a function has of its process's GPU.

    Args:
        gpu: The process's.
        sms: Of the whole GPU.
        seat: Whose groups they are.

    Raises:
        FailedPrecondition: As of `GreenGpu.join`.
    """

    def __init__(self, gpu: GreenGpu, sms: int, seat: Seat) -> None:
        self.seat = seat
        self._gpu = gpu
        self._now: tuple[float, frozenset[int]] = (0.0, frozenset())
        gpu.join(self, sms)

    def opened(self, share_percent: float, lanes: int) -> _native.CudaDevice:
        """The GPU, with lanes on the groups that a share is worth.

        Raises:
            GsliceError: The driver refused, or its memory is full.
        """
        gpu = self._gpu
        groups = gpu.planned(self, share_percent)
        cuda = _native.CudaDevice(gpu.ordinal, lanes, groups=gpu.groups, chosen=sorted(groups))
        self._take(share_percent, groups)
        return cuda

    @contextmanager
    def moving(self, share_percent: float, cuda: _native.CudaDevice) -> Iterator[range]:
        """Around the preparation of spare lanes and the move to them.

        Inside are the spare lanes, on the groups of the new share; none where that is worth the
        groups that the function has. What is raised inside leaves the function where it is. Lanes
        that do not serve go with the end of it, and so must all graphs of their streams before.

        Raises:
            GsliceError: The driver refused, or the GPU's memory is full.
        """
        before = self._now
        groups = self._gpu.planned(self, share_percent)
        try:
            if groups == before[1]:
                yield range(0)
            else:
                cuda.prepare_move(self._gpu.groups, sorted(groups))
                yield range(cuda.spare_lane, cuda.spare_lane + cuda.lanes)
        except BaseException:
            cuda.drop_spare()
            self._take(*before)
            raise
        cuda.drop_spare()
        self._take(share_percent, groups)

    def close(self) -> None:
        """Gives its groups back; idempotent."""
        self._gpu.leave(self)

    def _take(self, share_percent: float, groups: frozenset[int]) -> None:
        self._now = share_percent, groups
        self._gpu.take(self, share_percent, groups)
