"""The picture of a profile: latency over share, a line for each batch size, and the knees."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from pathlib import Path

_SIZE_INCHES = (7.2, 4.5)
_DPI = 150
_SUFFIXES = (".pdf", ".png", ".svg")


def check_plot(path: Path) -> None:
    """What would only show after the measurement.

    Raises:
        FailedPrecondition: matplotlib is not installed.
        InvalidArgument: the file has no format that it can have.
        NotFound: its directory is not there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise FailedPrecondition(
            "--plot needs matplotlib, which is not installed", hint="pip install 'gslice[plot]'"
        )
    if path.suffix not in _SUFFIXES:
        raise InvalidArgument(f"{path}: a plot ends in {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise NotFound(f"{path}: there is no directory {path.absolute().parent}")


def draw(result: Any, path: Path) -> None:
    """Draws a `ProfileResult` into a file."""
    from matplotlib.figure import Figure  # not pyplot: it looks for a display

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for curve in result.curves:
        rows = "1 row" if curve.bucket == 1 else f"{curve.bucket} rows"
        medians_ms = [time_us / 1000 for time_us in curve.medians_us]
        (line,) = axes.plot(curve.shares_percent, medians_ms, label=rows, zorder=2)
        color = line.get_color()
        points = [point for point in result.points if point.bucket == curve.bucket]
        axes.scatter(
            [point.share_percent for point in points],
            [point.median_us / 1000 for point in points],
            color=color,
            s=22,
            zorder=3,
        )
        axes.plot(
            *(curve.knee_percent, curve.knee_us / 1000),
            *("D",),
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=1.6,
            zorder=4,
        )
    axes.plot([], [], "o", color="0.3", markersize=5, label="measured")
    axes.plot([], [], "D", color="0.3", markersize=7, markerfacecolor="none", label="knee")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of {result.device}, % (by {result.limiter})")
    axes.set_ylabel("median latency of a batch, ms")
    axes.set_title(f"{result.name}   model error {result.error_percent:.1f} %", loc="left")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize="small", ncols=2)
    figure.text(0.99, 0.005, f"{result.machine}; gslice {result.version}", **_NOTE)
    figure.savefig(path)


_NOTE: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 6.5, "color": "0.45"}
