"""A table whose lines end with their text: blanks behind it would fold on a narrow terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.segment import Segment
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderResult


class TrimmedTable(Table):
    """See the module."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table's own lines, each without the blanks at its end."""
        drawn = cast("Iterable[Segment]", super().__rich_console__(console, options))
        for line in Segment.split_lines(drawn):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                last = line.pop()
                line.append(last._replace(text=last.text.rstrip()))
            yield from line
            yield Segment.line()
