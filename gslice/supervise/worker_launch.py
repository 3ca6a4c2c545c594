"""How the process of a worker is started: with which arguments, in which environment, as whom."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from gslice.supervise.child import Child
from gslice.supervise.process import Launch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gslice.core.users import User
    from gslice.supervise.node import Node

SOCKET_PREFIX = "w-"
MODULE = "gslice.worker"
ENVIRONMENT = {
    # onnxruntime reports its use to its maker over the network otherwise (seen with 1.31 on Linux).
    "ORT_DISABLE_TELEMETRY": "1",
    # CuPy and Numba wait for a batch's inputs otherwise, which come in the order of its stream.
    "CUPY_CUDA_ARRAY_INTERFACE_SYNC": "0",
    "NUMBA_CUDA_ARRAY_INTERFACE_SYNC": "0",
}


async def start_process(
    node: Node,
    log: Path,
    environment: Mapping[str, str],
    user: User | None = None,
    *,
    lowered: bool = False,
) -> Child:
    """Starts the process of a worker.

    Args:
        node: The node.
        log: Takes what it prints.
        environment: Beside that of all workers.
        user: Whom it runs as; None: whom we run as, and it may become another.
        lowered: At low CPU priority: it is a spare.

    Raises:
        Unavailable: it did not come up.
    """
    environment = {**ENVIRONMENT, **environment}
    closed = lowered and bool(node.users)
    launch = Launch(MODULE, options(node, user), log, environment, lowered, user, closed)
    name = f"{SOCKET_PREFIX}{secrets.token_hex(4)}"
    return await Child.start(node.run_dir, name, launch, node.broker.heard)


def options(node: Node, user: User | None = None) -> tuple[str, ...]:
    """What every worker, and every host, is told on its command line."""
    grace = ("--orphan-grace-us", str(node.config.orphan_grace_us))
    secluded = ("--secluded",) if user is not None else ()
    return (*grace, *secluded, *node.config.logs.style.arguments)
