"""`python -m gslice.frontend`: the composition root of a front-end process.

Descriptor 3 is the listening control socket that the daemon left (gslice.ipc.messages).
"""

from __future__ import annotations

import argparse
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
from gslice.frontend.regions import Regions
from gslice.frontend.server import Limits, Server
from gslice.frontend.servicer import InferenceServicer
from gslice.ipc import messages, process

MESSAGE_LIMIT_BYTES = (2 << 30) - 1  # protobuf's own


def main() -> None:
    """Parses the arguments and runs until the daemon, a signal or the end of the grace ends it."""
    parser = argparse.ArgumentParser(prog="python -m gslice.frontend", description=__doc__)
    parser.add_argument("--index", type=int, required=True, help="place in front-end tables")
    parser.add_argument("--orphan-grace-us", type=int, default=300_000_000)
    parser.add_argument("--request-max-bytes", type=int, default=MESSAGE_LIMIT_BYTES)
    parser.add_argument("--connection-age-us", type=int, default=30_000_000)
    parser.add_argument("--client-memory", default="", help="prefix of keys; empty: not offered")
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s front-end %(process)d: %(message)s"
    )
    keep_freed_memory()
    limits = Limits(
        min(args.request_max_bytes, MESSAGE_LIMIT_BYTES), args.connection_age_us // 1000
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(args.index, args.orphan_grace_us / 1e6, limits, args.client_memory))
        except GsliceError as error:
            sys.exit(f"gslice.frontend: {error}")


async def run(index: int, orphan_grace_s: float, limits: Limits, client_memory: str) -> None:
    """Builds the front-end and keeps it until it is told to end; then drains and closes."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    native = _native.Frontend(index, bool(client_memory))
    completions = Completions(native, loop)
    catalogue = Catalogue(native, completions.drain)
    readiness = Readiness(catalogue)

    async def memory(call: messages.RegisterMemory | messages.UnregisterMemory) -> None:
        await link.memory(call)

    async def repository(call: messages.RepositoryCall) -> None:
        await link.repository(call)

    def wake(name: str) -> None:
        link.wake(name)

    regions = Regions(native, memory, offered=bool(client_memory))
    inference = InferenceServicer(
        native, completions, catalogue, readiness, repository, wake, regions
    )
    server = Server(inference, completions, catalogue, readiness, limits)
    orders = Orders(server, catalogue, regions, _native.Segment.open, ended.set)

    def hello() -> messages.Hello:
        state = messages.FrontendState(
            index=index,
            address=server.address,
            functions=[function.spec.name for function in catalogue],
            state=server.state,
            in_flight=native.in_flight,
            client_memory=client_memory,
        )
        return process.hello(frontend=state)

    link = DaemonLink(
        process.adopt_listener(),
        completions.eventfd,
        hello,
        orders.obey,
        regions,
        ended.set,
        orphan_grace_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gc.freeze()  # what start-up made lives as long as the process

    await ended.wait()
    await server.drain(orders.drain_timeout_s)
    link.close()
    completions.close()
    regions.close()
    gc.unfreeze()


if __name__ == "__main__":
    main()
