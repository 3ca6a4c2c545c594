"""The arms of benchmarks for a machine with a GPU, over stand-ins: no figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from benchmarks import swap
from benchmarks.recovery import Arm, arms, measure
from tests.fakes.gpu import FakeGpu


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
