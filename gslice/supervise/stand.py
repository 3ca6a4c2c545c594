"""A stand: a worker of a function that is measured beside what serves, and takes no traffic.

It is loaded as a shadow is, and never attached to a segment. So nothing can reach it, and for a
daemon to come it is one of those that serve nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.errors import LoadFailed
from gslice.supervise.instances import Instances

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec, Signature
    from gslice.ipc.messages import Measure, Measured
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.node import Node
    from gslice.supervise.worker import Worker


class Stand:
    """See the module.

    Args:
        node: The node.
        spec: The function.
        signature: As those that serve it told.
        frontends: Of the node.
    """

    def __init__(
        self, node: Node, spec: FunctionSpec, signature: Signature, frontends: Frontends
    ) -> None:
        self._node = node
        self._spec = spec
        self._signature = signature
        # Whoever asks for a measurement hears of a death by it.
        self._instances = Instances(
            node,
            spec.placed_on((spec.device,)),
            frontends,
            lambda how, blamed, died_s: None,
            beside=True,
        )
        self._worker: Worker | None = None

    async def bring_to(self, share_percent: float) -> None:
        """Gives it a share: in place where that can be done, else another worker has it.

        Raises:
            GsliceError: the worker could not be loaded.
        """
        worker = self._worker
        if worker is not None and self._instances.path(worker, share_percent) == "shadow":
            await self.close()
            worker = None
        if worker is None:
            await self._load(share_percent)
        else:
            await self._instances.set_share(worker, share_percent)

    async def measure(self, order: Measure) -> Measured:
        """Times batches, once it has a share.

        Raises:
            GsliceError: they fail, or its worker died.
        """
        assert self._worker is not None
        return await self._instances.measure(self._worker, order)

    async def close(self) -> None:
        """Ends the worker, if there is one."""
        if (worker := self._worker) is not None:
            await self._instances.discard(worker)  # cancelled, it is closed again
            self._worker = None
            del self._node.stands[worker]
            self._node.changes.notify()

    async def _load(self, share_percent: float) -> None:
        worker = self._worker = await self._instances.start(share_percent)
        self._node.stands[worker] = self._spec.name
        signature = await self._instances.load(worker, self._signature, gently=True)
        if signature != self._signature:
            raise LoadFailed(
                f"function {self._spec.name}: the model is not what serves any more",
                hint=f"load it anew: gslice load {self._spec.name}",
            )
