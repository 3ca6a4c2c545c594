"""What every benchmark shares: one JSON format, medians with their spread, a table.

A result file:

    {"question": "...", "command": "...", "time": "...", "commit": "...", "machine": {...},
     "versions": {...}, "settings": {...}, "rows": [{"name": "...", ...}, ...]}

`commit` ends in `+` when the working tree differed from it. Every figure in a row is the median of
`settings.repeats` runs; `<figure>_spread_percent`, where there is one, is (max - min) / median.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.cores import ROOT

Row = dict[str, Any]
PACKAGES = ("grpcio", "protobuf", "numpy", "onnxruntime", "uvloop")


@dataclass
class Report:
    """The answer to one question.

    Attributes:
        question: What is measured, in one sentence.
        settings: What was chosen for this run, such as seconds and cores.
        rows: The figures.
    """

    question: str
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    command: str = field(default_factory=lambda: _command())
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: str = field(default_factory=lambda: commit())
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def show(self) -> None:
        """Prints the rows as a table on standard output."""
        table = Table(title=self.question, title_justify="left", caption=self._caption())
        heads = list(dict.fromkeys(key for row in self.rows for key in row))
        for head in heads:
            is_name = head == "name"
            justify: Literal["left", "right"] = "left" if is_name else "right"
            table.add_column(head, justify=justify, no_wrap=is_name, overflow="fold")
        for row in self.rows:
            table.add_row(*(_cell(row.get(head)) for head in heads))
        Console(width=None if sys.stdout.isatty() else 200).print(table)

    def _caption(self) -> str:
        return f"{self.machine['cpu']}, {self.machine['cores']} cores, commit {self.commit}"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    parser.add_argument("--quick", action="store_true", help="one short run: for tests, no figures")
    return parser


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """The `type` of an option that names some of what is known: `a,b`."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if strange := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(known)}")
        return chosen

    return names


def finish(report: Report, path: Path | None, shown: Sequence[str] = ()) -> None:
    """Shows a report, and writes it when a path was given.

    Args:
        report: The report.
        path: Where to; None: nowhere.
        shown: The columns that fit on a screen; empty: all. The file has all.
    """
    rows = [{key: row[key] for key in shown or row if key in row} for row in report.rows]
    replace(report, rows=rows).show()
    if path is not None:
        report.write(path)


def machine() -> dict[str, Any]:
    """The machine, as far as it explains figures."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "load_1min": os.getloadavg()[0],
        "scheduling": _scheduling(),
    }


def versions() -> dict[str, str]:
    """Python's and the packages' versions that explain figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def commit() -> str:
    """The commit, with a `+` when tracked files differ from it; `unknown` outside a clone."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(ROOT), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def medians(runs: Sequence[Mapping[str, float]], spread_of: Collection[str] = ()) -> Row:
    """Medians of several runs' figures.

    Args:
        runs: Figures of each run, with the same keys.
        spread_of: Keys whose spread is reported too.
    """
    row: Row = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        middle = statistics.median(values)
        row[key] = round(middle, 4)
        if key in spread_of and middle:
            spread = 100 * (max(values) - min(values)) / middle
            row[f"{key}_spread_percent"] = round(spread, 1)
    return row


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _scheduling() -> str:
    """Which policy this run and its servers have: a realtime one keeps others' work out of it."""
    policies = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo", os.SCHED_RR: "round robin"}
    return policies.get(os.sched_getscheduler(0), "another")


def _command() -> str:
    """What measures the same again: not where this run wrote its result."""
    result = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for written in ("--json", "--plot"):
        result.add_argument(written)
    _, others = result.parse_known_args(sys.argv[1:])
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.stem
    return " ".join(["python -m", f"benchmarks.{name}", *others])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
