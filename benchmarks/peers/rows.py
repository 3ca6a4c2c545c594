"""Rows of a result, and how each server was set up."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.common import Row, medians
from benchmarks.peers.race import Racer
from benchmarks.peers.turns import Load, Turn

BASE = "gslice"
RAN = "ran"
SHOWN = (
    *("name", "rps", "p50_us", "p99_us", "p999_us", "errors", "server_cpu_us_per_request"),
    *("server_rss_bytes", "ratio_to_gslice", "status"),
)
_ABSOLUTE = re.compile(r"(?<![\w/.:])/(?:[\w.+@-]+/)+([\w.+@-]+)")


def rows_of(racers: Sequence[Racer], stream: str) -> list[Row]:
    """All rows of a race: load by load, its servers one below the other."""
    base = next((racer for racer in racers if racer.peer.name == BASE), None)
    rows = []
    for load in racers[0].turns:
        for racer in racers:
            others = [other.peer.name for other in racers if other is not racer]
            compared = base.turns[load] if base else []
            rows.append(
                {
                    "name": f"{racer.peer.name}, {stream}, {load.name}, {load.client}",
                    "peer": racer.peer.name,
                    "version": racer.version,
                    "beside": ", ".join(others),
                    "stream": stream,
                    "protocol": racer.peer.protocol.protocol,
                    **row(load, racer.turns[load], compared),
                    "server_idle_percent": round(racer.idle_percent, 2),
                    "status": RAN,
                }
            )
    return rows


def row(load: Load, turns: Sequence[Turn], base: Sequence[Turn]) -> Row:
    """The figures of a load: medians over its turns, and of the ratios turn by turn.

    Args:
        load: Which.
        turns: Of the row's server.
        base: Of gslice, as many, each measured beside the other; empty: there are none.
    """
    figures = [turn.figures() for turn in turns]
    rates = [(turn.rps, other.rps) for turn, other in zip(turns, base, strict=False)]
    ratios = [mine / theirs for mine, theirs in rates if mine and theirs]
    tails = [
        (turn.latencies_us["p99_us"], other.latencies_us["p99_us"])
        for turn, other in zip(turns, base, strict=False)
    ]
    tail_ratios = [mine / theirs for mine, theirs in tails if mine and theirs]
    errors = sum(turn.errors for turn in turns)
    return {
        "load": load.name,
        "client": load.client,
        "rate_per_s": round(load.rate_per_s, 1) if load.is_open else None,
        **{name: _median([each[name] for each in figures]) for name in figures[0]},
        **_spread(turns),
        "errors": errors,
        "error": next((turn.example for turn in turns if turn.example), ""),
        "ratio_to_gslice": _median(ratios),
        "p99_ratio_to_gslice": _median(tail_ratios),
    }


def absent(peer: str, status: str, stream: str = "") -> Row:
    """The row of a server that did not race."""
    name = f"{peer}, {stream}" if stream else peer
    return {"name": name, "peer": peer, "stream": stream, "status": status}


def setup(racer: Racer) -> dict[str, Any]:
    """How a server was set up; paths of this machine are cut to their last part."""
    return {
        "versions": racer.installed.versions,
        "documentation": racer.peer.documentation,
        "protocol": racer.peer.protocol.protocol,
        "command": [setup_text(each) for each in racer.command.arguments],
        "files": {name: setup_text(text) for name, text in racer.command.files.items()},
        "settings": racer.command.settings,
        "processes": [[setup_text(each) for each in line] for line in racer.processes],
    }


def setup_text(text: str) -> str:
    """Without folders of this machine: each absolute path is cut to its last part."""
    return _ABSOLUTE.sub(r"\1", text)


def _median(values: Sequence[float | None]) -> float | None:
    """Null where one of the turns has no figure, or there is none."""
    known = [value for value in values if value is not None]
    complete = known and len(known) == len(values)
    return round(statistics.median(known), 4) if complete else None


def _spread(turns: Sequence[Turn]) -> Row:
    spread: Row = medians([{"rps": turn.rps} for turn in turns], ("rps",))
    return {name: figure for name, figure in spread.items() if name != "rps"}
