"""`gslice events`: what happened to the functions and the node, and when."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console
from gslice.core.events import EventKind

if TYPE_CHECKING:
    from rich.text import Text

_KEPT = 10_000  # by the daemon
_STYLES: dict[str, str] = {
    EventKind.LOAD: "green",
    EventKind.RESTART: "green",
    EventKind.ADOPT: "green",
    EventKind.SWAP: "cyan",
    EventKind.VERSION: "cyan",
    EventKind.REQUEUE: "yellow",
    EventKind.KILL: "red",
    EventKind.CRASH: "bold red",
    EventKind.FAILED: "bold red",
    EventKind.FAULT: "bold red",
}
_KIND_WIDTH = max(map(len, EventKind))


def events(
    name: Annotated[
        str,
        typer.Argument(
            help="A function, a device, `frontend` or `daemon`. Default: all.",
            metavar="NAME",
            show_default=False,
            autocompletion=options.complete_function,
        ),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many of the past.", min=0, max=_KEPT)
    ] = 100,
    kind: Annotated[
        list[EventKind] | None,
        typer.Option(
            "--kind",
            "-k",
            help="Only this kind, such as crash; can be given again.",
            metavar="KIND",
        ),
    ] = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show what happened: loads, swaps, crashes, restarts, faults."""
    with options.connect(state_dir) as control:
        found = control.events(limit, follow=follow, subject=name, kinds=kind or ())
        if as_json:
            _print_json(found)
        else:
            _print_table(found)


def _print_json(found: Any) -> None:
    from gslice.client.control import as_dict

    for event in found:
        print(json.dumps(as_dict(event), ensure_ascii=False), flush=True)


def _print_table(found: Any) -> None:
    lines, screen, count = EventLines(), console(), 0
    for count, event in enumerate(found, 1):
        if count == 1:  # not earlier: there may be an error to show instead
            screen.print(lines.head)
        screen.print(lines.line(event))
    if not count:
        screen.print("no events")


class EventLines:
    """Makes a line of each event, one below the other; a column grows when it must."""

    def __init__(self) -> None:
        self._subject_width = len("frontend")
        self._last: Any = None

    @property
    def head(self) -> Text:
        """The titles of the columns."""
        return self._line("TIME", "SINCE", "SUBJECT", "KIND", "TEXT", style="bold")

    def line(self, event: Any) -> Text:
        """When, how long after the one before, about what, and what."""
        self._subject_width = max(self._subject_width, len(event.subject))
        clock = time.strftime("%H:%M:%S", time.localtime(event.at_s))
        at = f"{clock}.{int(event.at_s * 1000) % 1000:03}"
        line = self._line(at, self._since(event), event.subject, event.kind, event.text)
        self._last = event
        return line

    def _since(self, event: Any) -> str:
        """Empty where the clocks of the two do not compare: the machine was started in between."""
        last = self._last
        if last is None or not 0 < last.monotonic_us <= event.monotonic_us:
            return ""
        return f"+{(event.monotonic_us - last.monotonic_us) / 1e6:.3f}"

    def _line(
        self, at: str, since: str, subject: str, kind: str, text: str, style: str = ""
    ) -> Text:
        from rich.text import Text

        return Text.assemble(
            f"{at:<12}  {since:>9}  {subject:<{self._subject_width}}  ",
            (f"{kind:<{_KIND_WIDTH}}", _STYLES.get(kind, "")),
            f"  {text}",
            style=style,
        )
