"""`gslice versions` and `gslice rollback`: which models served, and going back to one."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.functions import Name, show_stages
from gslice.cli.output import console, print_json, table

_SHORT_CHARS = 12  # of a fingerprint
_STYLES = {"serving": "green", "kept": "cyan"}


def versions(name: Name, state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Show the versions of a function: which serves, which are warm, which can be loaded again."""
    with options.connect(state_dir) as control:
        found = control.versions(name).versions
    if as_json:
        from gslice.client.control import as_dict

        print_json([as_dict(version) for version in found])
    elif found:
        console().print(_table(found))
    else:
        console().print(f"no version of {name} has served yet", markup=False)


def rollback(
    name: Name,
    version: Annotated[
        str,
        typer.Argument(
            help="A number, or `latest`: as declared. Default: the one that served before.",
            metavar="VERSION",
            show_default=False,
        ),
    ] = "",
    dry_run: options.DryRun = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Serve an earlier version of a function, and show each stage.

    One that is kept warm (`versions: {keep: 2}`) takes over at once, another is loaded again.
    `gslice diff` shows `versions.serve` then, `gslice save` keeps it; `latest` ends it.
    """
    with options.connect(state_dir) as control:
        stages = control.rollback(name, version, dry_run=dry_run)
        show_stages(name, stages, as_json, dry_run=dry_run)


def _table(found: Any) -> Any:
    from rich.text import Text

    shown = table(
        *("VERSION", "STATE", "FIRST SERVED", "LAST", "FINGERPRINT", "MODEL"), right="VERSION"
    )
    for version in found:
        shown.add_row(
            version.number,
            Text(version.state, style=_STYLES.get(version.state, "")),
            _at(version.first_served_s),
            _at(version.served_s),
            version.fingerprint[:_SHORT_CHARS],
            f"{version.model} sha256:{version.sha256}" if version.sha256 else version.model,
        )
    return shown


def _at(when_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when_s))
