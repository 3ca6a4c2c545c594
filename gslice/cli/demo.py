"""`gslice demo`: the whole system on a real pipeline, and a picture of what it read."""

from __future__ import annotations

import os
import sys
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
    # Before they are imported: gRPC would tell of every connection that the stopping node closes,
    # and onnxruntime would report its use to its maker over the network.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

    from gslice.cli.output import console, print_json
    from gslice.demo import assets

    found = assets.find()  # before anything that a missing package would break

    from gslice.demo.run import Options, run

    people = console(sys.stderr if as_json else sys.stdout)
    answer = run(found, Options(out=out, seconds=seconds, keep=keep), people)
    if as_json:
        print_json(answer)
