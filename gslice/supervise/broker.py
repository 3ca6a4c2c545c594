"""Shares of cores for workers that may not touch control groups: their threads are held by us.

A worker of another user may neither make groups nor change their limits, so it cannot lift its own
share. It names its compute threads, while it carries out an order, and hears what came of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, GsliceError
from gslice.device.cgroup import CgroupLimiter, find_root
from gslice.device.limiter import WEIGHTS
from gslice.device.tasks import thread_ids
from gslice.ipc.messages import Failed, HoldThreads, ThreadsHeld

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.ipc.channel import Received
    from gslice.supervise.child import Child
    from gslice.supervise.worker import Worker


@dataclass
class _Held:
    worker: Worker
    spec: FunctionSpec
    cpus: Sequence[int]
    limiter: CgroupLimiter | None = None

    def hold(self, tids: Collection[int]) -> ThreadsHeld:
        """Puts those of its threads under its share; others are none of its business."""
        if self.limiter is None:
            pid = self.worker.pid
            root, reason = find_root(Path(f"/proc/{pid}"))
            if root is None:
                raise FailedPrecondition(f"limiter cgroup does not work here: {reason}")
            weight = WEIGHTS[self.spec.priority]
            self.limiter = CgroupLimiter(root, self.cpus, self.spec.name, weight, pid)
        own = thread_ids(self.worker.pid) & set(tids)
        effective = self.limiter.hold(self.worker.share_percent, sorted(own))
        return ThreadsHeld(effective, self.limiter.period_us)


class ThreadBroker:
    """See the module."""

    def __init__(self) -> None:
        self._held: dict[Child, _Held] = {}

    @functools.cached_property
    def may_hold(self) -> bool:
        """Whether we may move another user's threads: version 1 asks for root, whatever we hold."""
        root, _ = find_root()
        return root is not None and (root.version == 2 or os.geteuid() == 0)

    def add(self, worker: Worker, spec: FunctionSpec, cpus: Sequence[int]) -> bool:
        """From now on a worker's threads are held to its share, whenever it names them.

        Returns whether they are: see `may_hold`.

        Args:
            worker: Which.
            spec: Of its function.
            cpus: The cores of its device.
        """
        if self.may_hold:
            self._held[worker.child] = _Held(worker, spec, cpus)
        return self.may_hold

    def forget(self, worker: Worker) -> None:
        """It is dead, and what held its threads goes; idempotent."""
        held = self._held.pop(worker.child, None)
        if held is not None and held.limiter is not None:
            with contextlib.suppress(OSError):  # some still end: it goes with the next one's
                held.limiter.release()

    def heard(self, child: Child, received: Received) -> None:
        """Takes what workers say on their own account; there is nothing else that they may say."""
        order = received.message
        if not isinstance(order, HoldThreads):
            return
        held = self._held.get(child)
        try:
            if held is None:
                raise FailedPrecondition(f"{child.name} limits its threads itself")
            child.send(held.hold(order.tids), seq=received.seq)
        except GsliceError as error:
            child.send(Failed(error.code, str(error)), seq=received.seq)
        except OSError as error:  # it dies just now
            child.send(Failed(FailedPrecondition.code, str(error)), seq=received.seq)
