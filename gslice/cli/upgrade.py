"""`gslice upgrade`: other code for the daemon and its front-ends, while they serve."""

from __future__ import annotations

from gslice.cli import options
from gslice.cli.functions import show_stages


def upgrade(state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Replace daemon and front-ends by the installed version.

    They serve meanwhile, and no request is lost. The daemon replaces itself in its process; each
    front-end serves its clients until they have connected to its successor, which takes
    node.connection_age. Workers go on.
    """
    with options.connect(state_dir) as control:
        show_stages("daemon", control.upgrade(), as_json)
