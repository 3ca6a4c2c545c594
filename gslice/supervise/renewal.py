"""Replacing front-ends and workers by such of the code on disk, under load: no call fails.

A front-end's successor listens on the same port and gets all new connections. The old one
serves those that it has until each has come of age and its client has gone to the successor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice._native import MAX_FRONTENDS
from gslice.core.errors import FailedPrecondition, GsliceError
from gslice.core.events import EventKind
from gslice.ipc.messages import DirectConnections, Ok, RetireFrontend
from gslice.supervise.access import ORDER_TIMEOUT_S
from gslice.supervise.logs import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gslice.supervise.frontend import Frontend
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

LOG_NAME = "frontend"
AGE_SPREAD = 1.1  # gRPC lets connections live up to a tenth longer, so that not all end at once


def is_inherited(frontend: Frontend) -> bool:
    """Whether an earlier daemon started it, of which the code is older."""
    return frontend.inherited


async def renew_frontends(
    node: Node,
    frontends: Frontends,
    stage: Callable[[str, str], None],
    is_due: Callable[[Frontend], bool] = is_inherited,
) -> None:
    """Replaces front-ends that serve, one at a time.

    Args:
        node: The node.
        frontends: Its front-ends.
        stage: Told of each one as its successor is about to start.
        is_due: Which of them.

    Raises:
        FailedPrecondition: there is no place for one more.
        GsliceError: a successor could not be started; the old one serves on.
    """
    async with frontends.renewing:
        serving = [frontend for frontend in frontends.all() if frontend.state == "serving"]
        for old in filter(is_due, serving):
            await _renew(node, frontends, old, stage)


async def _renew(
    node: Node, frontends: Frontends, old: Frontend, stage: Callable[[str, str], None]
) -> None:
    index = frontends.free_index()
    if index is None:
        raise FailedPrecondition(
            f"all {MAX_FRONTENDS} places of front-ends are taken, some by such as still retire",
            hint="try again when their clients have left them: node.connection_age",
        )
    stage("frontend", f"{index} for {old.index}")
    new = await frontends.start_one(old.door, index)
    if not old.child.process.alive:  # it died meanwhile, and is started again
        await retire(node, frontends, new)
        return
    listening = [
        f for f in frontends.all() if f.door == old.door and f.state in ("serving", "retiring")
    ]
    await _direct(node, new, len(listening) - 1)
    await retire(node, frontends, old)
    await _direct(node, new, -1)


async def renew_workers(
    node: Node, functions: Iterable[Function], stage: Callable[[str, str], None]
) -> list[str]:
    """Replaces the workers that an earlier daemon started, one at a time; see `Resizing.renew`.

    Versions that old workers keep warm end: a rollback would bring the old code back.

    Args:
        node: The node.
        functions: Whose workers.
        stage: Told of each one as its shadow is about to start.

    Returns:
        Which are not new, and why: their shadows failed, and they serve on.
    """
    kept = []
    for function in functions:
        try:
            await function.resizing.renew(stage)
        except (GsliceError, OSError) as error:  # OSError: the node is short of something
            reason = shortened(str(error).removeprefix(f"function {function.name}: "))
            node.event(function.name, EventKind.FAILED, f"its worker is not replaced: {reason}")
            kept.append(f"a worker of {function.name} is not: {reason}")
        async with function.lock:  # it may be about to serve one
            await function.kept.drop_inherited("it has the old code")
    return kept


async def retire(node: Node, frontends: Frontends, frontend: Frontend) -> None:
    """Lets a front-end go when its clients have left it, or have had all the time for it."""
    frontend.state = "retiring"
    node.changes.notify()
    config = node.config
    timeout_s = (config.connection_age_us * AGE_SPREAD + config.drain_timeout_us) / 1e6
    order = RetireFrontend(timeout_ms=round(timeout_s * 1000))
    await frontends.obey(frontend.child, order, (), timeout_s + ORDER_TIMEOUT_S)
    await frontend.child.stop(config.drain_timeout_us / 1e6)


async def _direct(node: Node, frontend: Frontend, place: int) -> None:
    """Without it a part of the new connections goes to the old one, and is lost when that ends."""
    try:
        order = DirectConnections(place)
        await frontend.child.request(order, Ok, timeout_s=ORDER_TIMEOUT_S)
    except GsliceError as error:
        text = f"new connections are divided among front-ends as ever: {error.message}"
        node.event(LOG_NAME, EventKind.FAILED, text)
