"""The first thing that a foreign program's process runs: it goes where it belongs, then becomes it.

    python -I -S launcher.py '{"entrances": [...], "cpus": [...], "niceness": 0, "directory": ...,
                               "command": [...]}'

A process that joins its control groups before the program begins keeps all that the program will
start inside. It is run by its path and imports nothing of gslice: it is there for milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

NOT_RUN = 127  # as a shell has it


def main(order: dict[str, Any]) -> int:
    """Joins the groups and becomes the program; returns only if that fails.

    Args:
        order: Files of control groups that take our id, cores, niceness, working directory, and
            the program with its arguments.
    """
    try:
        for entrance in order["entrances"]:
            entrance_fd = os.open(entrance, os.O_WRONLY)
            os.write(entrance_fd, str(os.getpid()).encode())
            os.close(entrance_fd)
        if order["cpus"]:
            os.sched_setaffinity(0, order["cpus"])
        with contextlib.suppress(PermissionError):  # this user may not raise a priority
            os.setpriority(os.PRIO_PROCESS, 0, order["niceness"])
        os.chdir(order["directory"])
        _restore_signals()
        os.execvp(order["command"][0], order["command"])
    except OSError as error:
        print(f"{order['command'][0]} cannot be run: {error}", file=sys.stderr)
    return NOT_RUN


def _restore_signals() -> None:
    """Python ignores some, and whoever started the daemon may ignore others; exec keeps that."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
