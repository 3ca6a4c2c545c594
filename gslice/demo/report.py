"""What the demo found out, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gslice.core.figures import milliseconds, percent
from gslice.demo.filetype import FileType
from gslice.demo.load import Measured
from gslice.demo.ocr import Line

HEADS = ("function", "requests/s", "p50", "p99", "mean batch", "share requested", "effective")


@dataclass(frozen=True)
class FunctionFigures:
    """One function under load.

    Attributes:
        name: Its name.
        requests: Answered during the load.
        rate_per_s: Answered a second.
        p50_us: Median latency, as the client saw it.
        p99_us: 99th percentile of it.
        batch_mean_rows: Rows a batch, as the worker ran them.
        share_requested_percent: Of the device; 0: auto.
        share_effective_percent: Read back from what enforces it.
        limiter: What enforces it.
    """

    name: str
    requests: int
    rate_per_s: float
    p50_us: float
    p99_us: float
    batch_mean_rows: float
    share_requested_percent: float
    share_effective_percent: float
    limiter: str

    @property
    def cells(self) -> tuple[str, ...]:
        """A row under HEADS."""
        return (
            self.name,
            f"{self.rate_per_s:,.1f}",
            milliseconds(self.p50_us),
            milliseconds(self.p99_us),
            f"{self.batch_mean_rows:.2f}",
            percent(self.share_requested_percent) if self.share_requested_percent else "auto",
            percent(self.share_effective_percent),
        )


def function_figures(
    measured: Mapping[str, Measured], functions: Sequence[Any]
) -> list[FunctionFigures]:
    """Puts what the client measured beside what the daemon reports.

    Args:
        measured: What the client measured, by function.
        functions: `gslice.v1.Function` messages of the same node.
    """
    return [
        FunctionFigures(
            name=function.name,
            requests=measured[function.name].ok,
            rate_per_s=measured[function.name].rate_per_s,
            p50_us=measured[function.name].percentile_us(50),
            p99_us=measured[function.name].percentile_us(99),
            batch_mean_rows=measured[function.name].batch_mean_rows,
            share_requested_percent=function.share_requested_percent,
            share_effective_percent=function.share_effective_percent,
            limiter=function.limiter,
        )
        for function in functions
        if function.name in measured
    ]


def show_lines(console: Console, lines: Sequence[Line], files: Sequence[FileType]) -> None:
    """Prints what was read."""
    for line in lines:
        score = Text(f"  {100 * line.score:5.1f} %  ", style="dim")
        console.print(score + Text(line.text, style="bold"))
    width = max((len(file.file) for file in files), default=0)
    for file in files:
        score = Text(f"  {100 * file.score:5.1f} %  ", style="dim")
        console.print(
            score + Text(f"{file.file:<{width}}  ") + Text(file.description, style="bold")
        )


def show_figures(console: Console, figures: Sequence[FunctionFigures]) -> None:
    """Prints the table of figures."""
    table = Table(box=None, header_style="dim", padding=(0, 2))
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right")
    for row in figures:
        table.add_row(*row.cells)
    console.print(table)


def as_json(
    lines: Sequence[Line],
    files: Sequence[FileType],
    figures: Sequence[FunctionFigures],
    picture: str,
) -> dict[str, Any]:
    """Everything, in JSON's types."""
    return {
        "lines": [
            {"text": line.text, "score": line.score, "box": line.box.tolist()} for line in lines
        ],
        "files": [asdict(file) for file in files],
        "functions": [asdict(row) for row in figures],
        "picture": picture,
    }
