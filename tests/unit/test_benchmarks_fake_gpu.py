"""The GPU suite over the stand-ins: its questions, and a step, with a GPU that has no speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu import lanes, overlap, plots, probe
from benchmarks.gpu.__main__ import lacking
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.runner import run_step
from benchmarks.gpu.step import Clock
from tests.fakes.gpu import FakeGpu


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Child processes find a GPU, which has no speed that a figure could tell of."""
    with FakeGpu() as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake
        assert fake.violations() == []


def test_with_a_gpu_nothing_is_lacking(fake_gpu: FakeGpu):
    assert lacking() == ""


@pytest.mark.parametrize(
    "question", ["device", "pinned", "ipc", "shared_weights", "memory_limit", "fault_domain"]
)
def test_questions_are_answered(fake_gpu: FakeGpu, question: str):
    answer = probe.ask(question, 60)
    assert answer["holds"] is True, answer


def test_the_limit_is_asked_of_clients_that_are_attached(fake_gpu: FakeGpu):
    rows = probe.ask("limit", 60)["details"]["rows"]
    found = {row["percent"]: row["sms"] for row in rows}
    assert found == {None: 132, 75: 98, 50: 66, 25: 32, 10: 12, 5: 6}
    assert all(row["attached"] and row["burn_us"] > 0 for row in rows)


def test_what_cannot_be_asked_is_told_from_what_does_not_hold(fake_gpu: FakeGpu):
    answer = probe.ask("static_partition", 60)
    assert (answer["holds"], answer["text"].partition(":")[0]) == (None, "not asked")


def test_gslice_and_a_bare_replay_run_side_by_side(fake_gpu: FakeGpu, tmp_path: Path):
    """The step's second half needs a real GPU, so it does not end well; the first rows stay."""
    outcome = run_step("dispatch", "benchmarks.gpu.dispatch", tmp_path, 12)
    result = json.loads((tmp_path / "dispatch.json").read_text())
    assert outcome.outcome in ("failed", "timed out")  # torch may take long to load
    assert [row["name"] for row in result["rows"]] == [f"one copy, batch {n}" for n in (1, 4, 8)]
    assert all(row["turns"] >= 2 and row["gslice_us"] > 0 for row in result["rows"])
    counters = result["settings"]["counters one copy"]
    assert counters["graph_launches"] == counters["batches"] > 0
    for name in ("python_calls", "synchronise_calls", "allocations"):
        assert counters[name] == 0, counters
    assert result["machine"]["gpu"]["sms"] == 132


def test_two_lanes_are_traced_and_drawn(
    fake_gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One arm as the step runs it; what overlaps on a stand-in says nothing of a GPU."""
    monkeypatch.setattr(overlap, "ARMS", {overlap.SERVED: {}, "mps, 1 connection": {}})
    report = GpuReport("overlap", "?", tmp_path / "overlap.json", {})
    overlap.measure(report, Clock(0.1))  # one of them: no time is left for the other
    (row,) = report.rows
    trace = report.report.settings["traces"]["mps"]
    spans = overlap.spans_of(trace)
    assert len(spans) == 2 * lanes.BATCHES * len(lanes.KINDS)
    for lane in range(2):  # a lane does one thing after the other
        mine = [span for span in spans if span.lane == lane]
        seams = [at for span in mine for at in (span.begin_us, span.end_us)]
        assert seams == sorted(seams)
    assert row["overlaps"] == (row["overlap_percent"] >= overlap.OVERLAPS_PERCENT)
    assert min(row["compute_us"], row["copy_in_us"], row["pump_two_lanes_us"]) > 0
    assert plots.draw(tmp_path) == [f"drew {tmp_path / 'overlap.png'}"]
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert report.report.settings["headline"].startswith("over a stand-in: two lanes under MPS")
