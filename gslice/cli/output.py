"""What commands print: tables for people, JSON for programs, one line for an error.

Colours appear only on a terminal, and never where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gslice.core.errors import GsliceError

# A file has no width, and a narrow terminal folds lines, which loses nothing; a cut column does.
_TABLE_WIDTH = 200


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
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        is_number = column in right.split()
        made.add_column(column, justify="right" if is_number else "left", no_wrap=True)
    return made


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


def milliseconds(duration_us: float) -> str:
    """A latency with three significant digits, such as `0.412 ms` or `12.3 ms`."""
    value = duration_us / 1000
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def megabytes(size_bytes: float) -> str:
    """A size for people, such as `12.3 MiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def percent(share_percent: float) -> str:
    """A share for people, such as `25%`."""
    return f"{share_percent:.0f}%" if share_percent >= 10 else f"{share_percent:.2g}%"
