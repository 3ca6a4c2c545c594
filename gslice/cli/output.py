"""What commands print: tables for people, JSON for programs, one line for an error.

Colours appear only on a terminal, and never where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gslice.core.errors import GsliceError

# A file has no width, and a narrow terminal folds lines, which loses nothing; a cut column does.
_TABLE_WIDTH = 200
_WIDE = 100  # below, cells are closer together


def console(stream: TextIO | None = None, *, crop: bool = False) -> Console:
    """A console on a stream.

    Args:
        stream: None: standard output.
        crop: Cut what is wider than the terminal, as a screen that is redrawn needs it.
    """
    from rich.console import Console

    stream = stream or sys.stdout
    if not stream.isatty():
        return Console(file=stream, width=_TABLE_WIDTH, highlight=False, soft_wrap=True)
    shown = Console(file=stream, highlight=False, soft_wrap=True)
    if not crop:
        shown.width = max(shown.width, _TABLE_WIDTH)
    return shown


def table(*columns: str, right: str = "") -> Table:
    """A table without lines around its cells.

    Args:
        columns: Their titles.
        right: Titles of those with numbers, separated by spaces.
    """
    from gslice.cli.trimmed import TrimmedTable

    gap = 2 if _columns() >= _WIDE else 1
    made = TrimmedTable(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column in columns:
        is_number = column in right.split()
        made.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    return made


def print_prose(screen: Console, text: str) -> None:
    """Sentences, folded between words where the screen is a terminal."""
    screen.print(text, width=_columns(), soft_wrap=not screen.is_terminal)


def _columns() -> int:
    """Of the terminal; whatever COLUMNS says where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _TABLE_WIDTH


def print_json(data: Any) -> None:
    """One JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def show_error(error: GsliceError) -> None:
    """`error: ...`, a line for each problem, and the hint under it, on standard error."""
    for line in error.message.splitlines() or [type(error).__name__]:
        print(f"{_styled('error:', '1;31')} {line}", file=sys.stderr)
    if error.hint:
        print(f"{_styled('hint:', '1;36')} {error.hint}", file=sys.stderr)


def show_warning(text: str) -> None:
    """`warning: ...` on standard error."""
    print(f"{_styled('warning:', '1;33')} {text}", file=sys.stderr)


def _styled(text: str, ansi: str) -> str:
    plain = not sys.stderr.isatty() or bool(os.environ.get("NO_COLOR"))
    return text if plain else f"\x1b[{ansi}m{text}\x1b[0m"
