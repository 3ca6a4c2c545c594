"""`gslice top`: the node as it runs, on the whole screen, with keys for what is done most."""

from __future__ import annotations

import sys

from gslice.cli import options
from gslice.core.errors import FailedPrecondition, InvalidArgument


def top(state_dir: options.StateDir = None) -> None:
    """Watch devices and functions on the whole screen, and resize, drain and reload by keys.

    Devices are bars of their shares. Needs `pip install 'gslice[top]'`; without it there are
    `gslice ps --watch` and `gslice status --watch`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidArgument("this is no terminal", hint="for programs: gslice status --json")
    try:
        from gslice.cli.top_app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise FailedPrecondition(
            "gslice top needs Textual, which is not installed", hint="pip install 'gslice[top]'"
        ) from error
    where = options.find_state_dir(state_dir)
    options.connect(where).close()  # who is not there is told of before the screen is taken
    Top(where).run()
