"""The picture of the runs: what was asked, who had which share, and what clients saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.live.record import Recording, latency_ms
from benchmarks.goodput.workloads import Asked
from gslice.client.load import percentile

_SIZE_INCHES = (9.0, 6.4)
_DPI = 100
_PERCENT = 99.0
_SLO_COLOR, _STATIC_COLOR, _ASKED_COLOR = "#0b6bcb", "#d9730d", "0.84"
_WARM_UP_COLOR = "#fbf1d6"

Floats = NDArray[np.float64]


def draw(slo: Sequence[Recording], static: Sequence[Recording], division: str, path: Path) -> None:
    """Draws both ways into a file.

    Args:
        slo: The controller's runs.
        static: Those of the best fixed division.
        division: Its name.
        path: A `.png`, `.svg` or `.pdf`.
    """
    from matplotlib.figure import Figure  # not pyplot: it looks for a display

    workload = slo[0].workload
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    grid = figure.subplots(3, len(workload.functions), sharex=True, sharey="row", squeeze=False)
    ways = ((static, _STATIC_COLOR, division), (slo, _SLO_COLOR, "slo"))
    for column, asked in enumerate(workload.functions):
        rates, shares, latencies = grid[:, column]
        rates.set_title(f"{asked.model}, SLO {asked.slo_ms:g} ms")
        came = _draw_asked(rates, slo[0], asked)
        for runs, color, label in ways:
            rates.step(*_in_time(runs, asked), color=color, where="post", lw=1.3)
            for run in runs:
                shares.step(*_shares(run, asked), color=color, where="post", lw=1.1, alpha=0.75)
            latencies.plot(*_p99_ms(runs, asked), color=color, lw=1.3, label=label)
        latencies.axhline(asked.slo_ms, color="0.25", lw=1.1, ls="--", label="SLO")
        latencies.set_xlabel("seconds")
    _dress(grid, slo[0])
    fixed, moved, *others = grid[2, 0].get_legend_handles_labels()[0]
    names = ["slo: the controller", f"{division}: the best fixed shares", "SLO", "warm-up"]
    figure.legend(
        [moved, fixed, *others, came],
        [*names, "requests that come"],
        loc="outside lower center",
        ncols=len(names) + 1,
        frameon=False,
        fontsize="small",
    )
    figure.savefig(path)


def _draw_asked(axes: Any, run: Recording, asked: Asked) -> Any:
    edges = np.arange(0.0, run.workload.seconds + 1)
    rates = asked.rate_per_s * asked.curve(edges)
    return axes.fill_between(edges, rates, color=_ASKED_COLOR, step="post", lw=0)


def _dress(grid: Any, run: Recording) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = ("in time, requests/s", "share of the device, %", "p99 of answers, ms")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name)
    for axes in grid.flat:
        axes.grid(visible=True, alpha=0.25)
        axes.set_xlim(0, run.workload.seconds)
        for i, (begin_s, end_s) in enumerate(run.workload.warm_ups_s):
            label = "" if i else "warm-up"  # once in the legend
            axes.axvspan(begin_s, end_s, color=_WARM_UP_COLOR, lw=0, zorder=0, label=label)
    for axes in grid[1]:
        axes.set_ylim(0, 100)
    for axes in grid[0]:
        axes.set_ylim(bottom=0)
    for axes in grid[2]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _in_time(runs: Sequence[Recording], asked: Asked) -> tuple[Floats, Floats]:
    """Requests answered within the SLO, for each second of arrival, mean over runs."""
    edges = np.arange(0.0, runs[0].workload.seconds + 1)
    due = [
        call.due_s - run.start_s
        for run in runs
        for call in run.calls[asked.name]
        if not call.error and latency_ms(call) <= asked.slo_ms
    ]
    counts = np.histogram(due, edges)[0] / len(runs)
    return edges, np.append(counts, counts[-1])


def _shares(run: Recording, asked: Asked) -> tuple[Floats, Floats]:
    times = np.array([sample.at_s for sample in run.samples])
    return times, np.array([sample.shares_percent[asked.name] for sample in run.samples])


def _p99_ms(runs: Sequence[Recording], asked: Asked) -> tuple[Floats, Floats]:
    """For each second of arrival, over all runs."""
    seconds = int(runs[0].workload.seconds)
    latencies: list[list[float]] = [[] for _ in range(seconds)]
    for run in runs:
        for call in run.calls[asked.name]:
            if not (call.error or call.lost):
                second = min(int(call.due_s - run.start_s), seconds - 1)
                latencies[second].append(latency_ms(call))
    values = [percentile(sorted(each), _PERCENT) for each in latencies]
    return np.arange(seconds) + np.float64(0.5), np.array(values)
