"""The composition root of the daemon process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import logging.handlers
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from gslice.core.config import load_config
from gslice.core.errors import GsliceError
from gslice.daemon.applying import ConfigSource
from gslice.daemon.daemon import Daemon
from gslice.daemon.handover import STOP_SIGNALS, Handover, release_signals
from gslice.daemon.lock import StateLock
from gslice.daemon.notify import Notifier
from gslice.daemon.store import Store
from gslice.daemon.successor import CHECK_OPTION, Versions, own_command
from gslice.device.inventory import find_gpus
from gslice.device.users import worker_users
from gslice.supervise.frontend_launch import kind_of
from gslice.supervise.logs import DAEMON_LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gslice.core.config import Config
    from gslice.core.config.types import LogConfig

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def run(
    config: Config,
    on_ready: Callable[[Daemon], None] = lambda daemon: None,
    *,
    command: Sequence[str] = (),
    source: ConfigSource | None = None,
    log_to_stderr: bool = True,
) -> None:
    """Runs a node until SIGINT, SIGTERM or an order to stop.

    The first signal drains; a second one ends what is left at once.

    Args:
        config: The node.
        on_ready: Called once, when clients can connect; functions may still be loading.
        command: What started this process, to be run again in its place by an upgrade; it takes
            `--check`. Empty: an upgrade is refused.
        source: Where the node was read; None: from nothing that could change.
        log_to_stderr: Log there too, and not only to `<state_dir>/log/daemon.log`.

    Raises:
        GsliceError: it could not start. What an earlier daemon left runs on, and nothing else.
    """
    kind_of(config.node)  # what was not built is refused before anything is touched
    state_dir = config.node.state_dir
    before, notifier = Handover.receive(), Notifier.receive()
    held = before.lock_fd if before is not None else None

    def ready(daemon: Daemon) -> None:
        on_ready(daemon)
        daemon.background(notifier.follow(daemon))

    def make(store: Store) -> Daemon:
        return Daemon(config, store, command, before, source)

    with StateLock(state_dir, held) as lock:
        after = _run(state_dir, make, ready, config.node.logs, log_to_stderr)
        if after is not None:
            after.lock_fd = lock.fd
            notifier.hand_over()
            after.replace_process(command)


def check(config: Config) -> None:
    """Says on standard output what this code is: the last step of `--check`.

    Raises:
        ConfigError: it was built without what node.yaml asks for.
        FailedPrecondition: workers cannot run as whom it names.
    """
    from gslice.daemon import control_api  # what is imported late elsewhere must be there, too
    from gslice.telemetry import metrics

    del control_api, metrics
    kind_of(config.node)
    worker_users(config.devices)
    print(Versions.own(config.node.state_dir).to_json())


def _run(
    state_dir: Path,
    make: Callable[[Store], Daemon],
    on_ready: Callable[[Daemon], None],
    logs: LogConfig,
    log_to_stderr: bool,
) -> Handover | None:
    with Store(state_dir / "gslice.db") as store:
        handlers = _log_handlers(state_dir / "log", logs, log_to_stderr)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(lambda: make(store), on_ready))
        finally:
            gc.unfreeze()
            for handler in handlers:
                logging.getLogger().removeHandler(handler)
                handler.close()


async def _serve(make: Callable[[], Daemon], on_ready: Callable[[Daemon], None]) -> Handover | None:
    daemon = make()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, daemon.stop)
    release_signals()
    gc.freeze()  # what start-up made lives as long as the process
    await daemon.run(on_ready)
    if daemon.handover is None:  # gRPC keeps the loop for ever, and that would keep the daemon
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
    return daemon.handover


def _log_handlers(log_dir: Path, config: LogConfig, log_to_stderr: bool) -> list[logging.Handler]:
    log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            log_dir / "daemon.log", maxBytes=config.max_bytes, backupCount=config.keep
        )
    ]
    if log_to_stderr:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(config.style.formatter(DAEMON_LOG_NAME, _LOG_FORMAT))
        logging.getLogger().addHandler(handler)
    config.style.apply(others=logging.WARNING)
    return handlers


def main() -> int:
    """`python -m gslice.daemon`: `gslice serve` without its looks."""
    parser = argparse.ArgumentParser(prog="python -m gslice.daemon", description=main.__doc__)
    parser.add_argument("-c", "--config", type=Path, help="node.yaml; default: settings alone")
    parser.add_argument(CHECK_OPTION, action="store_true", help="only say what would start")
    parser.add_argument("--reload", action="store_true", help="follow changes of node.yaml")
    arguments = parser.parse_args()

    def read() -> Config:
        return load_config(arguments.config, find_gpus=find_gpus)

    try:
        config = read()
        if arguments.check:
            check(config)
        else:
            source = ConfigSource(read, arguments.reload) if arguments.config else None
            run(config, command=own_command(), source=source)
    except GsliceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
