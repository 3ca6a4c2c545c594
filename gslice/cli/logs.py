"""`gslice logs`: what a function, the front-end or the daemon wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from gslice.cli import options


def logs(
    name: Annotated[
        str,
        typer.Argument(
            help="A function, `frontend` or `daemon`.",
            metavar="NAME",
            autocompletion=options.complete_function,
        ),
    ] = "daemon",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines.", min=0)] = 100,
    state_dir: options.StateDir = None,
) -> None:
    """Show the last lines of a log."""
    with options.connect(state_dir) as control:
        for text in control.logs(name, lines, follow=follow):
            print(text, flush=follow)
