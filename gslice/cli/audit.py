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
    return _short("; ".join(_change(name, *pair) for name, pair in log.changes(entry).items()))


def _change(name: str, before: Any, after: Any) -> str:
    """Of texts of several lines, such as a function's settings, those that differ."""
    if isinstance(before, str) and isinstance(after, str):
        old, new = before.splitlines(), after.splitlines()
        left = [f"-{line.strip()}" for line in old if line not in new]
        came = [f"+{line.strip()}" for line in new if line not in old]
        if len(old) > 1 or len(new) > 1:
            return " ".join([*left, *came])
    return f"{name}: {_word(before)} -> {_word(after)}"


def _word(value: Any) -> str:
    return "none" if value is None else " ".join(str(value).split())


def _short(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 4]} ..."
