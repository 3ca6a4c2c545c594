"""The SMs of a worker's GPU in groups, and its function on those that its share is worth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from gslice import _native
from gslice.core.errors import FailedPrecondition
from gslice.device.mps import check_no_share
from gslice.device.sm_groups import Allotment, Split

GREEN = "green"


class GreenShares:
    """See the module. One process has a GPU to itself: others know nothing of its groups.

    Args:
        ordinal: Of the GPU, as this process sees it.
        sms: Of the whole GPU.
        function: The function's name.

    Raises:
        FailedPrecondition: There is no driver, its green contexts are missing, or MPS limits this
            process.
    """

    def __init__(self, ordinal: int, sms: int, function: str) -> None:
        check_no_share(os.environ)  # by now it has all that the worker was given
        self._ordinal = ordinal
        self._function = function
        self._groups = _native.SmGroups(ordinal)
        seen = self._groups.sms
        if seen < sms:
            self.close()
            raise FailedPrecondition(
                f"limiter green needs the whole GPU, and this process sees {seen} of its {sms} SMs",
                hint="end the MPS control daemon that limits it, or set `limiter: mps`",
            )
        self._allotment = Allotment(Split(self._groups.count, self._groups.group_sms, seen))

    def opened(self, share_percent: float, lanes: int) -> _native.CudaDevice:
        """The GPU, with lanes on the groups that a share is worth.

        Raises:
            GsliceError: The driver refused, or its memory is full.
        """
        groups = self._planned(share_percent)
        cuda = _native.CudaDevice(self._ordinal, lanes, groups=self._groups, chosen=sorted(groups))
        self._allotment.take(self._function, share_percent, groups)
        return cuda

    @contextmanager
    def moving(self, share_percent: float, cuda: _native.CudaDevice) -> Iterator[range]:
        """Around the preparation of spare lanes and the move to them.

        Inside are the spare lanes, on the groups of the new share; none where that is worth the
        groups that the function has. What is raised inside leaves the function where it is.

        Raises:
            GsliceError: The driver refused, or the GPU's memory is full.
        """
        groups = self._planned(share_percent)
        if groups == self._allotment.held(self._function):
            yield range(0)
        else:
            cuda.prepare_move(self._groups, sorted(groups))
            try:
                yield range(cuda.spare_lane, cuda.spare_lane + cuda.lanes)
            except BaseException:
                cuda.drop_spare()
                raise
        self._allotment.take(self._function, share_percent, groups)

    def close(self) -> None:
        """Gives the groups back; idempotent."""
        self._groups.close()

    def _planned(self, share_percent: float) -> frozenset[int]:
        return dict(self._allotment.planned(self._function, share_percent))[self._function]
