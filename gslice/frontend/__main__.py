"""`python -m gslice.frontend`: the composition root of a front-end process.

Descriptor 3 is the listening control socket that the daemon left (gslice.ipc.messages).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from gslice import _native
from gslice.core.errors import GsliceError
from gslice.core.hardening import harden
from gslice.frontend.control import DaemonLink
from gslice.frontend.memory import keep_freed_memory
from gslice.frontend.orders import Orders
from gslice.frontend.parts import PARTS
from gslice.frontend.settings import Settings, parse
from gslice.ipc import messages, process


def main() -> None:
    """Parses the arguments and runs until the daemon, a signal or the end of the grace ends it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s front-end %(process)d: %(message)s"
    )
    try:
        settings = parse(__doc__)
        harden()
        keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except GsliceError as error:
        sys.exit(f"gslice.frontend: {error}")


async def run(settings: Settings) -> None:
    """Builds the front-end and keeps it until it is told to end; then drains and closes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    async def memory(call: messages.RegisterMemory | messages.UnregisterMemory) -> None:
        await link.memory(call)

    async def repository(call: messages.RepositoryCall) -> None:
        await link.repository(call)

    def wake(name: str) -> None:
        link.wake(name)

    parts = PARTS[settings.kind](settings, repository, wake, memory)
    orders = Orders(
        parts.server, parts.catalogue, parts.regions, parts.gate, _native.Segment.open, ended.set
    )

    def hello() -> messages.Hello:
        state = messages.FrontendState(
            index=settings.index,
            address=parts.server.address,
            functions=[function.spec.name for function in parts.catalogue],
            state=parts.server.state,
            in_flight=parts.data_path.in_flight,
            kind=settings.kind,
            tls=settings.tls.digest if settings.tls is not None else "",
            client_memory=settings.client_memory,
            page=bool(settings.control),
            asks=not parts.gate.access.open,
        )
        return process.hello(frontend=state)

    link = DaemonLink(
        process.adopt_listener(),
        parts.doorbell,
        hello,
        orders.obey,
        parts.regions,
        ended.set,
        settings.orphan_grace_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gc.freeze()  # what start-up made lives as long as the process

    await ended.wait()
    await parts.server.drain(orders.drain_timeout_s)
    link.close()
    parts.close()
    gc.unfreeze()


if __name__ == "__main__":
    main()
