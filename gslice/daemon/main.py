"""The composition root of the daemon process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import logging.handlers
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from gslice.core.config import load_config
from gslice.core.errors import GsliceError
from gslice.daemon.daemon import Daemon
from gslice.daemon.lock import StateLock
from gslice.daemon.store import Store
from gslice.device.inventory import find_gpus
from gslice.supervise.logs import LOG_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.config import Config

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def run(
    config: Config,
    on_ready: Callable[[Daemon], None] = lambda daemon: None,
    *,
    log_to_stderr: bool = True,
) -> None:
    """Runs a node until SIGINT, SIGTERM or an order to stop.

    The first signal drains; a second one ends what is left at once.

    Args:
        config: The node.
        on_ready: Called once, when clients can connect; functions may still be loading.
        log_to_stderr: Log there too, and not only to `<state_dir>/log/daemon.log`.

    Raises:
        GsliceError: it could not start. What an earlier daemon left runs on, and nothing else.
    """
    state_dir = config.node.state_dir
    with StateLock(state_dir), Store(state_dir / "gslice.db") as store:
        handlers = _log_handlers(state_dir / "log", log_to_stderr)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(config, store, on_ready))
        finally:
            gc.unfreeze()
            for handler in handlers:
                logging.getLogger().removeHandler(handler)
                handler.close()


async def _run(config: Config, store: Store, on_ready: Callable[[Daemon], None]) -> None:
    daemon = Daemon(config, store)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.stop)
    gc.freeze()  # what start-up made lives as long as the process
    await daemon.run(on_ready)


def _log_handlers(log_dir: Path, log_to_stderr: bool) -> list[logging.Handler]:
    log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            log_dir / "daemon.log", maxBytes=LOG_MAX_BYTES, backupCount=1
        )
    ]
    if log_to_stderr:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        logging.getLogger().addHandler(handler)
    logging.getLogger("gslice").setLevel(logging.INFO)
    return handlers


def main() -> int:
    """`python -m gslice.daemon`: `gslice serve` without its looks."""
    parser = argparse.ArgumentParser(prog="python -m gslice.daemon", description=main.__doc__)
    parser.add_argument("-c", "--config", type=Path, help="node.yaml; default: settings alone")
    try:
        run(load_config(parser.parse_args().config, find_gpus=find_gpus))
    except GsliceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
