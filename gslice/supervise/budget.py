"""What functions may take of the node: shared memory for segments, memory of a device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from gslice.core.errors import ResourceExhausted
from gslice.core.figures import megabytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

_PARTS_MIN = 4


class Budget(Protocol):
    """What functions may take of the node."""

    def segment_bytes(self) -> int:
        """How large a new segment may be."""

    def check_memory(self, device: str) -> None:
        """Checks the memory of all workers of a device, as they reported it.

        Raises:
            ResourceExhausted: it is more than the device's limit.
        """


class NodeBudget:
    """The `Budget` of all functions of a node.

    Args:
        node: Its limits.
        functions: What runs, by name; read when asked.
    """

    def __init__(self, node: Node, functions: Mapping[str, Function]) -> None:
        self._node = node
        self._functions = functions

    def segment_bytes(self) -> int:
        """A part of the pinned memory that leaves something for every function to come."""
        total = self._node.config.pinned_memory_bytes
        used = sum(d.segment.size_bytes for d in self._deployments() if d.segment is not None)
        part = total // max(_PARTS_MIN, len(self._functions))
        return max(0, min(part, (total - used) // 2))

    def check_memory(self, device: str) -> None:
        """See `Budget.check_memory`."""
        limit = self._node.device(device).memory_limit_bytes
        on_gpu = device in self._node.gpus
        used: Counter[str] = Counter()
        for deployment in self._deployments():  # of the same name, while one is loaded anew
            if deployment.spec.device == device:
                used[deployment.spec.name] += sum(
                    w.device_memory_bytes if on_gpu else w.memory_bytes for w in deployment.workers
                )
        if limit and used.total() > limit:
            parts = " + ".join(f"{name} {megabytes(size)}" for name, size in sorted(used.items()))
            raise ResourceExhausted(
                f"device {device}: workers take {parts} = {megabytes(used.total())}, "
                f"more than its memory limit of {megabytes(limit)}",
                hint="raise the limit, or unload a function",
            )

    def _deployments(self) -> list[Deployment]:
        return [d for function in self._functions.values() for d in function.deployments]
