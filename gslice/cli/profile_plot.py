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
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot: it looks for a display
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    colors = mpl.colormaps["viridis"].resampled(len(result.curves) + 1)  # the last is too pale
    for place, curve in enumerate(result.curves):
        _draw_curve(axes, result, curve, colors(place))
    axes.plot([], [], "o", color="0.3", markersize=5, label="measured")
    axes.plot([], [], "D", color="0.3", markersize=8, markerfacecolor="none", label="knee")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, 103)
    axes.set_xlabel(f"share of {result.device}, % (by {result.limiter})")
    axes.set_ylabel("median time of a batch, ms")
    axes.set_title(f"{result.name}: model error {result.error_percent:.1f} %", loc="left")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    note = f"{result.machine}; gslice {result.version}"
    figure.supxlabel(note, x=0.99, ha="right", fontsize=6.5, color="0.45")
    figure.savefig(path)


def _draw_curve(axes: Any, result: Any, curve: Any, color: Any) -> None:
    rows = "1 row" if curve.bucket == 1 else f"{curve.bucket} rows"
    medians_ms = [time_us / 1000 for time_us in curve.medians_us]
    axes.plot(curve.shares_percent, medians_ms, color=color, label=rows)
    points = [point for point in result.points if point.bucket == curve.bucket]
    shares = [point.share_percent for point in points]
    axes.plot(shares, [point.median_us / 1000 for point in points], "o", color=color, markersize=5)
    knee = (curve.knee_percent, curve.knee_us / 1000)
    axes.plot(*knee, "D", color=color, markersize=10, markerfacecolor="none", markeredgewidth=1.5)
