"""`gslice upgrade`: other code for the daemon and what it runs, while all serve."""

from __future__ import annotations

from typing import Annotated

import typer

from gslice.cli import options
from gslice.cli.functions import show_stages


def upgrade(
    workers: Annotated[
        bool, typer.Option("--workers", help="Replace every worker, too, one at a time.")
    ] = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Replace daemon and front-ends by the installed version.

    They serve meanwhile, and no request is lost. The daemon replaces itself in its process; each
    front-end serves its clients until they have connected to its successor, which takes
    node.connection_age. Workers go on with the code that they have; with --workers each is replaced
    by one at the same share, which is loaded and warm before it takes over.
    """
    with options.connect(state_dir) as control:
        show_stages("daemon", control.upgrade(workers=workers), as_json)
