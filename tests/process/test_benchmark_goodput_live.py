"""`benchmarks.goodput --mode live` serves, measures and draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cores import ROOT
from gslice.device.limiter import resolved

POLICIES = ["slo", "static", "fixed 40:60", "fixed 60:40", "equal", "uncontrolled"]


@pytest.mark.timeout(300)
def test_a_quick_run_gives_every_row_and_a_picture(tmp_path: Path) -> None:
    out, plot = tmp_path / "result.json", tmp_path / "live.png"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.goodput", "--mode", "live", "--quick"),
            *("--json", str(out), "--plot", str(plot)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("round 1") == len(POLICIES) - 1  # static is one of them
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = json.loads(out.read_text())
    settings, rows = result["settings"], {row["policy"]: row for row in result["rows"]}
    assert list(rows) == POLICIES
    assert settings["limiter"] == resolved("auto")
    assert settings["static"] in POLICIES
    assert all(slo_ms > 0 for slo_ms in settings["slo_ms"].values())
    for policy, row in rows.items():
        assert (row["mode"], row["failed"]) == ("live", 0), policy
        assert row["requests"] > 10
        assert 0 < row["util_pct"] < 200
        assert policy == "slo" or row["resizes"] == 0
    assert rows["static"]["vs_static"] == 1.0
    assert rows["static"]["goodput_rps"] == rows[settings["static"]]["goodput_rps"]
