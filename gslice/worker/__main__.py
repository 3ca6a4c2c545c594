"""`python -m gslice.worker`, started by the daemon with its listening socket as descriptor 3."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from gslice.core.errors import GsliceError
from gslice.ipc.process import adopt_listener
from gslice.worker.worker import Worker

_DEFAULT_GRACE_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker until it is told to exit. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="gslice.worker", description=__doc__)
    parser.add_argument("--id", default="worker", help="as in the name of its socket")
    parser.add_argument(
        "--orphan-grace-us",
        type=int,
        default=None,
        help="how long to serve without a daemon; default: GSLICE_ORPHAN_GRACE_S, else 300 s",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        grace_s = _grace_s(options.orphan_grace_us)
        Worker(adopt_listener(), options.id, grace_s).run()
    except GsliceError as error:
        print(f"gslice.worker: {error}", file=sys.stderr)
        return 1
    return 0


def _grace_s(given_us: int | None) -> float:
    if given_us is not None:
        return given_us / 1e6
    return float(os.environ.get("GSLICE_ORPHAN_GRACE_S", _DEFAULT_GRACE_S))


if __name__ == "__main__":
    sys.exit(main())
