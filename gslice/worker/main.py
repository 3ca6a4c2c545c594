"""A worker process, started by the daemon with its listening socket as descriptor 3."""

from __future__ import annotations

import argparse
import sys

from gslice.core.errors import GsliceError
from gslice.core.hardening import FILES_MAX, harden
from gslice.core.logs import LogStyle
from gslice.ipc.process import adopt_listener
from gslice.worker.host import Host
from gslice.worker.loop import ControlLoop
from gslice.worker.worker import Worker


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker, or a host, until it is told to exit. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="gslice.worker", description=__doc__)
    parser.add_argument(
        "--orphan-grace-us",
        type=int,
        default=300_000_000,
        help="how long to serve without a daemon",
    )
    LogStyle.options(parser)
    parser.add_argument("--host", default="", metavar="DEVICE", help="be the host of a GPU")
    parser.add_argument("--secluded", action="store_true", help="only root may look into it")
    options = parser.parse_args(arguments)
    lines = LogStyle.of(options).set_up("worker", "%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        harden(FILES_MAX, secluded=options.secluded)
        listener, grace_s = adopt_listener(), options.orphan_grace_us / 1e6
        loop: ControlLoop = (
            Host(listener, grace_s, options.host)
            if options.host
            else Worker(listener, grace_s, lines=lines)
        )
        loop.catch_signals()
        loop.run()
    except GsliceError as error:
        print(f"gslice.worker: {error}", file=sys.stderr)
        return 1
    return 0
