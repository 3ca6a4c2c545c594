"""The arms of benchmarks for a machine with a GPU, over stand-ins: no figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from benchmarks import swap
from benchmarks.cores import ROOT
from benchmarks.gpu import blast, mix, plots
from benchmarks.gpu.mps import Client
from benchmarks.gpu.report import GpuReport
from benchmarks.recovery import Arm, arms, measure
from tests.fakes.gpu import FakeGpu

HEAVY_BYTES = 32 << 20


def arm(name: str, folder: Path) -> Arm:
    (found,) = (arm for arm in arms(1, folder) if arm.name == name)
    return found


def test_a_machine_with_mps_has_more_arms(gpu: FakeGpu, tmp_path: Path) -> None:
    ways = ["cpu, spare", "cpu, no spare", "mps, spare", "mps, no spare", "mps fault, spare"]
    assert [arm.name for arm in arms(200, tmp_path)] == ways


def test_without_a_gpu_there_are_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeGpu(cuda=False, mps=False) as none:
        for name, value in none.environment.items():
            monkeypatch.setenv(name, value)
        assert [arm.name for arm in arms(200, tmp_path)] == ["cpu, spare", "cpu, no spare"]


def test_everybody_comes_back_from_a_fault(gpu: FakeGpu, tmp_path: Path) -> None:
    row = uvloop.run(measure(arm("mps fault, spare", tmp_path), 2, 0.0))
    counts = tuple(row[name] for name in ("kills", "lost", "duplicated_replies", "errors"))
    assert counts == (1, 0, 0, 0), repr(row)
    assert row["recovery_ms_max"] > 1
    assert list(tmp_path.glob("fault-*")) == []


@pytest.mark.parametrize(("limiter", "path"), [("mps", "shadow"), ("green", "in place")])
def test_shares_of_a_gpu_change(gpu: FakeGpu, limiter: str, path: str) -> None:
    (found,) = (arm for arm in swap.gpu_arms(stand_in=True) if arm.limiter == limiter)
    assert found.name == f"timed kernel, {limiter}, stand-in: no figure"
    plan = swap.Plan(resizes=2, pause_s=0.2, capacity_s=0.2, load_percent=50, seed=0)
    row = uvloop.run(swap.measure(found, plan))
    assert (row["path"], row["resizes"], row["lost"], row["errors"]) == (path, 2, 0, 0), row
    assert row["prepare_ms_p50"] > 0
    assert ("flip_us_p50" in row) == (limiter == "mps")


@pytest.mark.parametrize(
    ("name", "reaches_the_neighbour"), [("mps", True), ("exclusive", False), ("green", True)]
)
def test_how_far_a_fault_reaches(
    gpu: FakeGpu, tmp_path: Path, name: str, reaches_the_neighbour: bool
) -> None:
    """Whoever stops, every request is answered once, and rightly."""
    (way,) = (way for way in blast.ways(1) if way.name == name)
    if reason := blast.refusal(way):
        pytest.skip(reason)
    seen = uvloop.run(blast.drill(way, 25.0, 0.3, 0.2))
    report = GpuReport("blast", "?", tmp_path / "blast.json", {})
    for function, each in seen.items():
        report.add(f"{name}, {function}", **blast.figures(name, [each]))
        assert each.requests == len(each.answers) > 0
        assert each.gap_ms(before=False) > 0
    assert blast.broken(report.rows) == "", report.rows
    restarted = {function: each.restarted for function, each in seen.items()}
    assert restarted == {blast.VICTIM: True, blast.NEIGHBOUR: reaches_the_neighbour}
    report.setting(answers={name: {function: each.answers for function, each in seen.items()}})
    assert plots.draw(tmp_path) == [f"drew {tmp_path / 'blast.png'}"]
    assert (tmp_path / "blast.png").read_bytes().startswith(b"\x89PNG")


def test_the_mix_asks_at_rates_that_it_has_measured(start_node) -> None:
    """Its clients need no GPU: here they ask for images back."""
    name = "mobilenet_v2"
    image = {"name": "x", "dtype": "UINT8", "dims": [-1, 3, 224, 224]}
    node = start_node({name: {"identity": {"inputs": [image]}}})
    caller = Client("caller", {}, address=node.grpc_address, function=name, model=name)
    try:
        assert caller.read() == {"ready": True}
        target = mix.target_of(caller)
        answers = mix.ask({name: caller}, {name: target}, 4.0, 0.5)
    finally:
        caller.kill()
    counts = [answers[name][kind] for kind in ("sent", "answered", "in_time")]
    assert counts[0] > 0
    assert counts == sorted(counts, reverse=True)
    assert answers[name]["p99_us"] > 0
    row = mix.figures("shares", 4.0, answers, 0.5)
    assert row["goodput_rps"] == 2 * counts[2]


WEIGHTS = f"""
import sys
from pathlib import Path
from benchmarks.gpu import weights
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock
weights.FUNCTIONS, weights.HEAVY_BYTES = 2, {HEAVY_BYTES}
weights.measure(GpuReport("weights", "?", Path(sys.argv[1]), {{}}), Clock(1.0))
"""


def test_shared_weights_are_there_once(gpu: FakeGpu, tmp_path: Path) -> None:
    """The step, in a process that finds the stand-in's NVML, which counts as NVIDIA's does."""
    path = tmp_path / "weights.json"
    ended = subprocess.run(
        [sys.executable, "-c", WEIGHTS, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(path.read_text())
    rows = {row["name"]: row for row in result["rows"]}
    saved = rows["plain weights, saved"]
    assert (saved["functions"], saved["block_bytes"]) == (2, HEAVY_BYTES)
    assert saved["saved_bytes"] == saved["expected_saved_bytes"] == HEAVY_BYTES
    assert rows["plain weights, own, load 2"]["shared_weights_bytes"] == 0
    assert rows["plain weights, shared, load 2"]["gpu_bytes"] < HEAVY_BYTES
    assert result["settings"]["headline"].startswith("over a stand-in: 2 x plain weights: ")
