"""What no event tells of: hangs, the size of logs, and which engines are in use."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice.core.events import EventKind
from gslice.supervise.logs import SPARES_LOG_NAME, rotate
from gslice.supervise.renewal import LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

_PERIOD_MAX_S = 1.0


async def care(node: Node, functions: Mapping[str, Function]) -> None:
    """Until cancelled: kills workers that hang, lets functions rest, moves large logs away."""
    period_s = min(_PERIOD_MAX_S, node.config.hang_timeout_us / 4e6)
    while True:
        await asyncio.sleep(period_s)
        now_ns = time.monotonic_ns()
        node.oom.look(now_ns / 1e9)
        for function in list(functions.values()):
            function.kill_hung(now_ns)
            function.residency.look()
        for name in (*functions, LOG_NAME, SPARES_LOG_NAME):
            try:
                rotate(node.log_path(name))
            except OSError as error:
                text = f"its log could not be moved away: {error}"
                node.event(name, EventKind.DAEMON, text)


def engines_in_use(node: Node, functions: Iterable[Function]) -> list[str] | None:
    """The engine of every worker that serves; None while any is on its way, or measured."""
    if node.stands:
        return None
    functions = list(functions)
    workers = [w for f in functions for d in f.deployments for w in d.workers]
    loading = (f.state == "LOADING" for f in functions if f.spec.program is None)
    if any(loading) or not all(w.ready for w in workers):
        return None
    serving = [f.spec for f in functions if f.serving and f.spec.program is None]
    return [spec.engine for spec in serving for _ in range(spec.instances * len(spec.placed))]
