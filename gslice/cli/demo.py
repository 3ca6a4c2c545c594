"""`gslice demo`: the whole system on a real pipeline, and a picture of what it read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Directory for the annotated page.", file_okay=False)
    ] = Path(),
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long the load lasts.", min=0.1, max=3600)
    ] = 5.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON; the rest goes to stderr.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the node's directory: node.yaml, state and logs.")
    ] = False,
) -> None:
    """Serve three models, read a page through them, and show figures of a short load.

    Starts a daemon, a front-end and workers on free loopback ports, and leaves nothing behind.
    """
    from rich.console import Console

    from gslice.demo import assets

    found = assets.find()  # before anything that a missing package would break

    from gslice.demo.run import Options, run

    console = Console(stderr=as_json, highlight=False)
    answer = run(found, Options(out=out.resolve(), seconds=seconds, keep=keep), console)
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
