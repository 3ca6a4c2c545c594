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
from gslice.frontend.catalogue import Catalogue
from gslice.frontend.completions import Completions
from gslice.frontend.control import DaemonLink
from gslice.frontend.memory import keep_freed_memory
from gslice.frontend.orders import Orders
from gslice.frontend.readiness import Readiness
from gslice.frontend.server import Server
from gslice.frontend.servicer import InferenceServicer
from gslice.frontend.settings import Settings, parse
from gslice.ipc import messages, process


def main() -> None:
    """Parses the arguments and runs until the daemon, a signal or the end of the grace ends it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s front-end %(process)d: %(message)s"
    )
    try:
        settings = parse(__doc__)
        keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings))
    except GsliceError as error:
        sys.exit(f"gslice.frontend: {error}")


async def run(settings: Settings) -> None:
    """Builds the front-end and keeps it until it is told to end; then drains and closes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    native = _native.Frontend(settings.index)
    completions = Completions(native, loop)
    catalogue = Catalogue(native, completions.drain)
    readiness = Readiness(catalogue)

    async def repository(call: messages.RepositoryCall) -> None:
        await link.repository(call)

    def wake(name: str) -> None:
        link.wake(name)

    inference = InferenceServicer(native, completions, catalogue, readiness, repository, wake)
    server = Server(
        inference, completions, catalogue, readiness, settings.limits, settings.tls
    )
    orders = Orders(server, catalogue, _native.Segment.open, ended.set)

    def hello() -> messages.Hello:
        state = messages.FrontendState(
            index=settings.index,
            address=server.address,
            functions=[function.spec.name for function in catalogue],
            state=server.state,
            in_flight=native.in_flight,
            kind=settings.kind,
            tls=settings.tls.digest if settings.tls is not None else "",
        )
        return process.hello(frontend=state)

    link = DaemonLink(
        process.adopt_listener(),
        completions.eventfd,
        hello,
        orders.obey,
        ended.set,
        settings.orphan_grace_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gc.freeze()  # what start-up made lives as long as the process

    await ended.wait()
    await server.drain(orders.drain_timeout_s)
    link.close()
    completions.close()
    gc.unfreeze()


if __name__ == "__main__":
    main()
