"""`python -m gslice.device.probe`: looks at the GPUs in a process of its own.

The daemon never opens CUDA itself: a context costs memory and time, and a driver that crashes or
hangs must not take the daemon along. Prints one line of JSON; an error is one, too.

    list          what there is (no context is made)
    client        makes a context on GPU 0, as a worker would, and says what it sees; stays until
                  its standard input is closed, so that others can look for it
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gslice.core.errors import GsliceError
from gslice.device.cuda import LIBRARY, Driver

_COPY_BYTES = 64 << 20
_COPY_ROUNDS = 5


def main(arguments: list[str] | None = None) -> int:
    """Runs one look. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="gslice.device.probe", description=__doc__)
    parser.add_argument("what", choices=["list", "client"])
    parser.add_argument("--bandwidth", action="store_true", help="client: time pinned copies")
    parser.add_argument(
        "--sms", type=int, default=0, help="client: time a kernel for a GPU of so many"
    )
    options = parser.parse_args(arguments)
    try:
        if options.what == "list":
            _say(_list())
        else:
            _client(options.bandwidth, options.sms)
    except GsliceError as error:
        _say({"error": error.message, "hint": error.hint, "code": error.code})
        return 1
    return 0


def _list() -> dict[str, Any]:
    driver = Driver()
    return {
        "driver_version": driver.version,
        "library": _path_of(LIBRARY),
        "gpus": [dataclasses.asdict(gpu) for gpu in driver.gpus()],
    }


def _client(bandwidth: bool, whole_sms: int) -> None:
    driver = Driver()
    with driver.context(0) as context:
        found: dict[str, Any] = {
            "pid": os.getpid(),
            "sms": driver.sms(0),
            "memory_free_bytes": context.memory_free_bytes(),
        }
        if bandwidth:
            to_gpu, from_gpu = context.pinned_bandwidth(_COPY_BYTES, _COPY_ROUNDS)
            found["to_gpu_bytes_per_s"], found["from_gpu_bytes_per_s"] = to_gpu, from_gpu
        if whole_sms:
            try:
                found["burn_s"] = context.burn_s(whole_sms)
            except GsliceError as error:  # a container may lack the driver's compiler
                found["burn_error"] = error.message
        _say(found)
        sys.stdin.read()


def _path_of(library: str, maps: Callable[[], str] = Path("/proc/self/maps").read_text) -> str:
    """Where a loaded library lies; empty if its file has another name."""
    stem = library.partition(".so")[0]
    for line in maps().splitlines():
        path = line.partition("/")[2]
        if path.rpartition("/")[2].startswith(stem + ".so"):
            return f"/{path}"
    return ""


def _say(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
