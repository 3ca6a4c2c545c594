"""What no event tells of: hangs, and the size of logs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gslice.core.events import EventKind
from gslice.supervise.logs import SPARES_LOG_NAME, rotate
from gslice.supervise.renewal import LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

_PERIOD_MAX_S = 1.0


async def care(node: Node, functions: Mapping[str, Function]) -> None:
    """Until cancelled: kills workers that hang, lets functions rest, moves large logs away."""
    logs = node.config.logs
    period_s = min(_PERIOD_MAX_S, node.config.hang_timeout_us / 4e6)
    while True:
        await asyncio.sleep(period_s)
        now_ns = time.monotonic_ns()
        node.oom.look(now_ns / 1e9)
        for function in list(functions.values()):
            function.kill_hung(now_ns)
            function.residency.look()
        for name in (*functions, LOG_NAME, SPARES_LOG_NAME, *node.hosts.log_names):
            try:
                rotate(node.log_path(name), logs.max_bytes, logs.keep)
            except OSError as error:
                text = f"its log could not be moved away: {error}"
                node.event(name, EventKind.DAEMON, text)
