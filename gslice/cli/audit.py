"""`gslice audit`: who changed what on the node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, table
from gslice.core import audit as log

if TYPE_CHECKING:
    from rich.table import Table

_CHARS = 60


def audit(
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many of the newest.", min=1)
    ] = 100,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show who ordered what, and what that changed; the daemon need not run."""
    found = log.newest(options.find_state_dir(state_dir), limit)
    if as_json:
        for entry in found:
            print(json.dumps(entry, ensure_ascii=False))
    elif found:
        console().print(_table(found), markup=False)
    else:
        console().print("no actions")


def _table(found: list[dict[str, Any]]) -> Table:
    shown = table("TIME", "WHO", "VIA", "WHAT", "SUBJECT", "OUTCOME", "CHANGED")
    for entry in found:
        who = entry.get("who", {})
        shown.add_row(
            entry.get("at", "")[:19].replace("T", " "),
            who.get("name", ""),
            who.get("via", ""),
            entry.get("what", ""),
            entry.get("subject", ""),
            _short(entry.get("outcome", "")),
            _changed(entry),
        )
    return shown


def _changed(entry: dict[str, Any]) -> str:
    if not entry.get("before"):
        return ""
    return "; ".join(
        f"{name}: {_short(before)} -> {_short(after)}"
        for name, (before, after) in log.changes(entry).items()
    )


def _short(value: Any) -> str:
    text = " ".join(("none" if value is None else str(value)).split())
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 4]} ..."
