"""Pictures of result files: `python -m benchmarks.gpu.plots DIR`, after the suite or elsewhere.

The suite draws them itself where matplotlib is; a result file has all that they need.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.overlap import SERVED, spans_of
from benchmarks.gpu.report import StepFile

_DPI = 120
_WIDTH_INCHES = 9.0
_COLORS = {"copy in": "#0b6bcb", "compute": "#d9730d", "copy out": "#2a8a4a"}
_OF = {"victim": "#c0392b", "neighbour": "#0b6bcb"}
_WAITS_ALPHA = 0.22
_TRACE_MS = 8.0  # of a trace: more would be too thin to see


def draw(folder: Path) -> list[str]:
    """Draws what a folder of results has; what was drawn, or why nothing was, in lines."""
    found = {name: StepFile(folder / f"{name}.json").content() for name in _DRAWN}
    wanted = {name: result for name, result in found.items() if _has_data(result)}
    if not wanted:
        return []
    if importlib.util.find_spec("matplotlib") is None:
        later = f"python -m benchmarks.gpu.plots {folder}"
        return [f"no pictures without matplotlib; with it, elsewhere too: {later}"]
    told = []
    for name, result in wanted.items():
        path = folder / f"{name}.png"
        _DRAWN[name](result).savefig(path)
        told.append(f"drew {path}")
    return told


def overlap(result: Mapping[str, Any]) -> Any:
    """What each lane did when, an arm below the other; pale: its stream waited for the hardware."""
    traces, rows = result["settings"]["traces"], {row["name"]: row for row in result["rows"]}
    figure, grid = _figure(result, len(traces), 1.15)
    for axes, (arm, trace) in zip(grid, traces.items(), strict=True):
        spans, begin_us = spans_of(trace), min(span[3] for span in trace["spans"])
        for span in spans:
            own = span.active(trace["alone_us"])
            for (begin, end), alpha in (((span.begin_us, own[0]), _WAITS_ALPHA), (own, 1.0)):
                at, color = (begin - begin_us) / 1e3, _COLORS[span.kind]
                width, lane = (end - begin) / 1e3, 1 - span.lane
                axes.barh(lane, width, 0.74, left=at, color=color, alpha=alpha, lw=0)
        whole_ms = (max(span.end_us for span in spans) - begin_us) / 1e3
        axes.set_xlim(0, min(whole_ms, max(_TRACE_MS, whole_ms / 3)))
        axes.set_yticks([1, 0], ["lane 0", "lane 1"])
        as_served = " (as gslice's workers)" if arm == SERVED else ""
        within = f"{rows[arm]['overlap_percent']:g} % of copy time within the other lane's compute"
        axes.set_title(f"{arm}{as_served}: {within}", loc="left", fontsize="medium")
    grid[-1].set_xlabel("milliseconds; pale: the stream waits for the hardware")
    _legend(figure, _COLORS)
    return figure


def blast(result: Mapping[str, Any]) -> Any:
    """How long each request took, by when it was due, around a fault; a way below the other."""
    answers = result["settings"]["answers"]
    figure, grid = _figure(result, len(answers), 1.5, sharex=True)
    for axes, (way, of) in zip(grid, answers.items(), strict=True):
        told = []
        for name, pairs in of.items():
            due_s = [due for due, _ in pairs]
            took_ms = [1e3 * (answered - due) for due, answered in pairs]
            axes.plot(due_s, took_ms, ".", color=_OF[name], markersize=4, alpha=0.75)
            row = next(row for row in result["rows"] if row["name"] == f"{way}, {name}")
            stops = f"stops for {row['stopped_ms']:.0f} ms" if row["restarted"] else "serves on"
            told.append(f"{name} {stops}")
        axes.axvline(0, color="0.25", lw=1, ls="--")
        axes.set_yscale("log")
        axes.set_ylabel("ms")
        axes.grid(visible=True, alpha=0.25)
        axes.set_title(f"{way}: {', '.join(told)}", loc="left", fontsize="medium")
    grid[-1].set_xlabel("when a request was due: seconds after the fault of the victim")
    _legend(figure, _OF)
    return figure


_DRAWN: dict[str, Callable[[Mapping[str, Any]], Any]] = {"overlap": overlap, "blast": blast}


def _has_data(result: Mapping[str, Any]) -> bool:
    settings = result.get("settings", {})
    return bool(settings.get("traces") or settings.get("answers"))


def _figure(result: Mapping[str, Any], rows: int, inches: float, **shared: Any) -> tuple[Any, Any]:
    """A figure with axes below each other, which says of which machine it is."""
    from matplotlib.figure import Figure  # not pyplot: it looks for a display

    size = (_WIDTH_INCHES, 1.1 + inches * rows)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, 1, squeeze=False, **shared)[:, 0]
    gpu = result["machine"]["gpu"]
    note = f"{gpu.get('stand_in') or gpu.get('name', 'no GPU')}; commit {result['commit']}"
    figure.supxlabel(note, x=0.99, ha="right", fontsize=6.5, color="0.45")
    return figure, grid


def _legend(figure: Any, colors: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(
        handles=patches,
        loc="outside upper right",
        ncols=len(patches),
        frameon=False,
        fontsize="small",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.plots", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the results are")
    for line in draw(parser.parse_args().folder):
        print(line)


if __name__ == "__main__":
    main()
