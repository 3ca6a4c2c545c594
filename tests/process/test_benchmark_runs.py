"""Every benchmark runs, and writes what it found in the common format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import swap
from benchmarks.cores import ROOT
from benchmarks.frontend.built import built
from benchmarks.frontend.h2load import check_installed
from benchmarks.frontend.identity import kinds
from benchmarks.frontend.turns import H2LOAD, SHARED_MEMORY
from gslice.core.errors import FailedPrecondition

# One figure of each that only a run which worked gives, and its bounds: they are no measurements.
FIGURES = {
    "overhead": {"rps": (1, 1e6), "p50_us": (1, 1e8), "copies_per_request": (2, 8)},
    "saturation": {"bare_rps": (0.1, 1e6), "gslice_rps": (0.1, 1e6), "ratio": (0.01, 10)},
    "recovery": {"recovery_ms_p50": (1, 60_000), "kills": (1, 2), "lost": (0, 0), "errors": (0, 0)},
    "footprint": {"accepting_s": (0.01, 60), "help_ms": (1, 60_000), "worker_pss_mb": (10, 1000)},
    "frontend": {"rps": (1, 1e6), "p50_us": (1, 1e8), "server_cpu_us_per_request": (1, 1e7)},
    "telemetry": {"rps": (1, 1e6), "p50_us": (1, 1e8), "cost_percent": (-1e4, 100)},
    "swap": {"resizes": (2, 2), "requests": (1, 1e6), "lost": (0, 0), "dispatch_us_p50": (0, 1e6)},
}
ROWS = {
    "overhead": 6,
    "saturation": 2,
    "recovery": 2,
    "footprint": 1,
    "frontend": 10 * len(kinds()),  # two payloads, copied and not, and a model: each in two ways
    "telemetry": 2,
    "swap": len(swap.arms()),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FIGURES)
def test_a_quick_run_gives_every_figure(name: str, tmp_path: Path) -> None:
    if name == "frontend":
        try:
            check_installed(), built("echo_nghttp2")
        except FailedPrecondition as error:
            pytest.skip(error.message)
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["settings"]["repeats"] == 1
    assert len(result["rows"]) == ROWS[name]
    for row in result["rows"]:
        assert row["name"] in done.stdout
        for figure, (low, high) in FIGURES[name].items():
            assert low <= row[figure] <= high, (row["name"], figure)
    if name == "frontend":
        compared = [row for row in result["rows"] if 0.01 < row.get("bare_ratio", 0) < 10]
        assert [(row["frontend"], row["client"]) for row in compared] == [
            (kind, client) for kind in kinds() for client in (H2LOAD, SHARED_MEMORY)
        ]
