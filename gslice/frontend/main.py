"""The composition root of a front-end process.

Descriptor 3 is the listening control socket that the daemon left (gslice.ipc.messages).
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import uvloop

from gslice import _native
from gslice.core.errors import GsliceError
from gslice.core.hardening import harden
from gslice.core.tracing import telemetry_words
from gslice.frontend.control import DaemonLink
from gslice.frontend.journal import Journal
from gslice.frontend.memory import bound_freed_memory, keep_freed_memory
from gslice.frontend.orders import Orders
from gslice.frontend.parts import PARTS
from gslice.frontend.settings import Settings, parse
from gslice.ipc import messages, process


def main() -> None:
    """Parses the arguments and runs until the daemon, a signal or the end of the grace ends it."""
    try:
        settings = parse(__doc__)
        settings.logs.set_up(
            "front-end", "%(asctime)s %(levelname)s front-end %(process)d: %(message)s"
        )
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
    journal = Journal.of(parts.data_path, settings)
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
            telemetry=telemetry_words(settings.logs, settings.tracing),
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
    # The native one has its messages in a pool, and a thread that would wait for the allocator.
    bounding = None if settings.kind == "native" else asyncio.create_task(bound_freed_memory())

    await ended.wait()
    if bounding is not None:
        bounding.cancel()
    await parts.server.drain(orders.drain_timeout_s)
    link.close()
    if journal is not None:
        await journal.close()
    parts.close()
    gc.unfreeze()
