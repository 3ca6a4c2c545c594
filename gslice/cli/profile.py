"""`gslice profile`: a function's latency over shares and batch sizes, measured while it serves."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.functions import Name
from gslice.cli.output import console, print_json, show_warning, table
from gslice.core.errors import InvalidArgument
from gslice.core.figures import milliseconds, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.progress import Progress, Task


def profile(
    name: Name,
    shares: Annotated[
        str,
        typer.Option("--shares", help="All of these, such as 10%,50%,100%.", metavar="LIST"),
    ] = "",
    buckets: Annotated[
        str, typer.Option("--buckets", help="All of these, such as 1,4,16.", metavar="LIST")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw latency over share into a file, such as out.png."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing: show what is kept.")
    ] = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Measure a function beside what serves: latency over share and batch size, and the knee.

    A worker that takes no traffic is loaded and timed at one share after the other, at as few
    points as tell the rest. Neighbours may be slower meanwhile. The result is kept for the
    daemon's decisions. Ctrl-C gives it up.
    """
    if show and (shares or buckets):
        raise InvalidArgument(
            "--show measures nothing, so --shares and --buckets do not go with it"
        )
    chosen = parse_shares(shares), parse_buckets(buckets)
    if plot is not None:
        from gslice.cli.profile_plot import check_plot

        check_plot(plot)
    with options.connect(state_dir) as control:
        result = _watched(name, control.profile(name, *chosen, show=show), quiet=as_json)
    if plot is not None:
        from gslice.cli.profile_plot import draw

        draw(result, plot)
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(result))
    else:
        _show(result, console())


def parse_shares(text: str) -> list[float]:
    """Percent of `10%,50%`; empty: none.

    Raises:
        InvalidArgument: one is no percentage.
    """
    from gslice.core.units import parse_percent

    return [parse_percent(part.strip()) for part in text.split(",")] if text else []


def parse_buckets(text: str) -> list[int]:
    """Rows of `1,4,16`; empty: none.

    Raises:
        InvalidArgument: one is no number of rows.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        if not (part.isascii() and part.isdigit() and 0 < int(part) < 1 << 31):
            raise InvalidArgument(f"--buckets {text}: {part!r} is no number of rows; write 1,4,16")
    return [int(part) for part in parts]


def _watched(name: str, steps: Iterable[Any], *, quiet: bool) -> Any:
    """The result, after a bar on a terminal has shown how far it is."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            left_s = task.fields["end_s"] - time.monotonic()
            return Text(f"{max(0.0, left_s):.0f} s left" if left_s == left_s else "")

    screen = console(sys.stderr, crop=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    hidden = quiet or not screen.is_terminal
    with Progress(*columns, Left(), console=screen, transient=True, disable=hidden) as progress:
        return _followed(name, steps, progress, quiet=quiet)


def _followed(name: str, steps: Iterable[Any], progress: Progress, *, quiet: bool) -> Any:
    bar = progress.add_task(name, total=None, figures="loading", end_s=float("nan"))
    result, done = None, 0
    for step in steps:
        if step.excess_percent and not quiet:
            excess = percent(step.excess_percent)
            show_warning(f"up to {excess} of the device beyond what is free is used meanwhile")
        if step.HasField("point"):
            done += 1
            point = step.point
            figures = f"batch of {point.bucket} at {percent(point.share_percent)}: "
            figures += milliseconds(point.median_us)
            end_s = time.monotonic() + step.left_s
            progress.update(bar, figures=figures, end_s=end_s)
        progress.update(bar, completed=done, total=done + step.left)
        if step.HasField("result"):
            result = step.result
    assert result is not None, "a stream without an error ends with the result"
    return result


def _show(result: Any, screen: Console) -> None:
    joules = any(point.joules for point in result.points)
    columns = ["BATCH", "SHARE", "MEDIAN", "P99", "MODEL", "TIMED"] + ["J/BATCH"] * joules
    shown = table(*columns, right=" ".join(columns))
    for point in result.points:
        cells = [
            *(str(point.bucket), percent(point.share_percent)),
            *(milliseconds(point.median_us), milliseconds(point.p99_us)),
            *(milliseconds(point.fitted_us), str(point.batches)),
        ]
        shown.add_row(*cells, *([f"{point.joules:.3g}"] * joules))
    screen.print(shown)
    screen.print()
    for curve in result.curves:
        knee = f"{percent(curve.knee_percent)}, {milliseconds(curve.knee_us)}"
        screen.print(f"knee of a batch of {curve.bucket}: {knee}", markup=False)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(result.at_s))
    how = "in passing, at a load" if result.quick else "beside what served"
    screen.print(
        f"model error {result.error_percent:.1f} %; measured {how}, {when}, on {result.device} by "
        f"{result.limiter}: {result.machine}; gslice {result.version}",
        markup=False,
    )
