"""How the steps of the GPU suite reckon, and what they make of their rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.gpu import (
    ablation,
    blast,
    curves,
    doctor,
    mix,
    onnx_cuda,
    overlap,
    staging,
    weights,
)
from benchmarks.gpu.turns import TURN_S, added_us, below_percent, take_turns


def test_arms_take_turns_and_every_arm_gets_two():
    now, order = [0.0], []

    def arm(name: str, seconds: float, own_us: float | None = None):
        def run() -> float | None:
            order.append(name)
            now[0] += seconds
            return own_us

        return run

    turns = take_turns({"a": arm("a", TURN_S), "b": arm("b", TURN_S, 7)}, 0, lambda: now[0])
    assert order == ["a", "b", "a", "b"]
    assert turns == {"a": pytest.approx([TURN_S * 1e6] * 2), "b": [7, 7]}


def test_arms_are_compared_turn_by_turn():
    turns = {"base": [100.0, 200.0, 100.0], "arm": [60.0, 120.0, 40.0]}
    assert below_percent(turns, "arm", "base") == 40
    assert added_us(turns, "base", "arm") == 60


def test_each_step_of_the_data_path_has_its_part():
    latencies = dict(zip(ablation.CHAIN, (1000, 900, 850, 840, 500, 520), strict=True))
    turns = {arm: [float(us)] * 2 for arm, us in latencies.items()} | {
        "pageable_graphs": [650.0] * 2
    }
    rows = {row["arm"]: row for row in ablation.tell(turns)}
    parts = [rows[arm]["part_percent"] for arm in ablation.CHAIN[1:]]
    assert parts == [10, 5, 1, 34, -2]
    assert sum(parts) == pytest.approx(rows["gslice"]["below_pageable_percent"])
    assert rows["graphs"]["below_pageable_graphs_percent"] == pytest.approx(23.1)
    assert "batch 1: 50 % by hand, 48 % in gslice" in ablation.headline([(1, 50.0, 48.0)])


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(512, 30.0), (4096, 12.0), (4096, 9.0), (65536, -5.0)], 4096),
        ([(512, -3.0), (4096, 12.0)], 0),
        ([(512, 30.0)], 512),
    ],
)
def test_staging_wins_up_to_where_it_first_loses(points: list[tuple[int, float]], best: int):
    assert staging.best(points) == best


def test_the_knee_is_the_smallest_share_that_is_hardly_slower():
    rows = [
        {"model": "resnet50", "bucket": 8, "percent": percent, "latency_us": us}
        for percent, us in {100: 1000.0, 50: 1090.0, 25: 1800.0, 75: 1010.0}.items()
    ]
    assert curves.knee_percent(rows, "resnet50") == 50
    assert curves.knee_percent(rows, "vgg19") == 0
    shares = {
        "100": {"effective_sms": 132},
        "50": {"effective_sms": 66},
        "25": {"effective_sms": 32},
    }
    assert curves.headline(rows, shares) == (
        "knee at batch 8: resnet50 50 %; effective SMs at most 1.0 from the request (a step is 2)"
    )


def test_the_mix_is_a_valid_node(tmp_path: Path):
    from ruamel.yaml import YAML

    from gslice.core.config import load_config

    for way in mix.WAYS:
        path = tmp_path / f"{way}.yaml"
        functions = mix.functions(way, {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/pipe"})
        limiter = "mps" if way == mix.GSLICE else "none"
        YAML().dump(
            {"version": 1, "devices": {"cuda:0": {"limiter": limiter}}, "functions": functions},
            path,
        )
        config = load_config(path, environ={})
        assert [spec.engine for spec in config.functions.values()] == ["torch"] * 4
        shares = [spec.share.max_percent for spec in config.functions.values()]
        assert shares == ([25.0] * 4 if way == mix.GSLICE else [100.0] * 4)


def test_a_round_of_the_mix_counts_what_came_in_time():
    answers = {
        "a": {"sent": 40, "answered": 40, "in_time": 30, "p99_us": 9000.0},
        "b": {"sent": 0, "answered": 0, "in_time": 0, "p99_us": 0},
    }
    assert mix.figures("shares", 1.5, answers, 2.0) == {
        "way": "shares",
        "load": 1.5,
        "goodput_rps": 15,
        "sent_rps": 20,
        "answered_rps": 20,
        "a_in_time_percent": 75,
        "a_p99_ms": 9,
        "b_in_time_percent": 0,
        "b_p99_ms": 0,
    }


def test_the_mix_holds_gslice_against_the_bars():
    rows = [
        {"way": way, "goodput_rps": rps}
        for way, rps in (("time_slicing", 40.0), ("time_slicing", 50.0), ("shares", 160.0))
    ]
    assert mix.verdicts(rows[:2]) == []
    assert mix.verdicts(rows) == [("time_slicing", 3.2, True)]
    rows += [{"way": "shares", "goodput_rps": 90.0}, {"way": "default_mps", "goodput_rps": 120.0}]
    assert mix.headline(rows) == (
        "time_slicing 50/s in time; shares 160/s in time; default_mps 120/s in time;"
        " 3.2 times time_slicing (bar 3: pass); 1.33 times default_mps (bar 1.5: fail)"
    )


ALONE_US = {"copy in": 10.0, "compute": 20.0, "copy out": 2.0}


def overlapped(*pieces: tuple[int, str, float, float]) -> float:
    spans = [overlap.Span(lane, 0, kind, *times) for lane, kind, *times in pieces]
    return overlap.overlap_percent(spans, ALONE_US)


def test_copies_beside_the_other_lanes_kernels_overlap():
    lane_0 = [(0, "compute", 0, 20), (0, "copy in", 20, 30), (0, "compute", 30, 50)]
    lane_1 = [(1, "copy in", 10, 20), (1, "compute", 20, 40), (1, "copy out", 40, 42)]
    assert overlapped(*lane_0, *lane_1) == 100
    half = [(1, "copy in", 15, 25), (1, "compute", 25, 45), (1, "copy out", 50, 52)]
    assert overlapped(*lane_0, *half) == pytest.approx(100 * (5 + 5) / (10 + 10), abs=0.1)


def test_a_copy_that_waited_for_a_kernel_did_not_overlap_it():
    """Its stream gets to it at 0, but the hardware only when the kernel is over."""
    lane_0 = [(0, "compute", 0, 20), (0, "copy out", 20, 52)]
    lane_1 = [(1, "copy in", 0, 30), (1, "compute", 30, 50)]
    assert overlapped(*lane_0, *lane_1) == 0


def test_what_one_lane_does_alone_at_either_end_does_not_count():
    early = [(0, "copy in", 0, 10), (0, "compute", 10, 30), (0, "copy out", 30, 32)]
    late = [(1, "copy in", 20, 30), (1, "compute", 30, 50), (1, "copy out", 50, 52)]
    assert overlapped(*early, *late) == 100


def test_the_overlap_is_told_in_a_line():
    rows = [
        {"name": "mps", "overlaps": True, "overlap_percent": 93.0},
        {"name": "without mps", "overlaps": False, "overlap_percent": 3.5},
    ]
    for row in rows:
        row |= {"pump_one_lane_us": 1000.0, "pump_two_lanes_us": 640.0}
    assert overlap.headline(rows) == (
        "two lanes under MPS overlap: 93 % of copy time lies in the other lane's compute; the pump"
        " takes 36 % less time with two; without mps: 3.5 %"
    )


def test_a_blast_tells_who_stopped_and_what_was_lost():
    hit = blast.Seen(
        True, [(-0.3, -0.2), (-0.2, -0.1), (0.0, 0.7), (0.4, 0.75)], requests=5, lost=1
    )
    well = blast.Seen(False, [(-0.1, -0.05), (0.1, 0.12)], requests=2)
    rows = [
        {"name": "mps, victim", **blast.figures("mps", [hit])},
        {"name": "mps, neighbour", **blast.figures("mps", [well])},
        {"name": "green", "way": "green", "skipped": "not here"},
    ]
    assert (rows[0]["stopped_ms"], rows[0]["usual_gap_ms"]) == (800, 100)
    assert (rows[0]["latency_ms_max"], rows[0]["restarted"], rows[1]["restarted"]) == (700, 1, 0)
    assert blast.broken(rows) == "1 lost"
    assert blast.headline(rows) == (
        "mps: victim stops for 800 ms, neighbour serves on; green: skipped (not here); 1 lost"
    )
    assert blast.headline(rows[1:2]).endswith("; every request was answered once")


def test_a_way_that_node_yaml_refuses_is_skipped_with_the_reason():
    for way in blast.ways(1):
        if way.name in ("exclusive", "none"):
            assert blast.refusal(way) == ""
    assert [way.neighbour["device"] for way in blast.ways(2)] == [
        *("cuda:0", "cuda:1", "cuda:0", "cuda:0")
    ]
    wrong = replace(blast.ways(1)[0], name="x", devices={"cuda:0": {"limiter": "cgroup"}})
    assert "cgroup" in blast.refusal(wrong)


def test_what_shared_weights_save():
    def load(gpu_bytes: int, load_ms: float, shared: int = 0) -> dict[str, float]:
        return {"gpu_bytes": gpu_bytes, "load_ms": load_ms, "shared_weights_bytes": shared}

    loads = {
        "shared": [load(500, 90.0, 300), load(200, 50.0, 300), load(220, 60.0, 300)],
        "own": [load(500, 90.0), load(500, 70.0)],  # there was no time for a third
    }
    row = weights.saved(loads)
    assert (row["functions"], row["saved_bytes"], row["expected_saved_bytes"]) == (2, 300, 300)
    assert (row["saved_bytes_each"], row["own_load_ms"], row["shared_load_ms"]) == (300, 70, 50)


def test_doctor_names_what_is_not_well():
    found = {"Python": "ok", "NVML": "ok", "cuda:0 MPS": "fail", "CPU": "warn"}
    checks = [{"name": name, "status": status} for name, status in found.items()]
    assert doctor.headline(checks) == "2 ok; warn: CPU; fail: cuda:0 MPS"


def test_onnx_calls_that_wait_are_named():
    rows = [
        {"rows": 1, "gslice_below_plain_percent": 30.5, "waits": False},
        {"rows": 8, "gslice_below_plain_percent": -2.0, "waits": False},
    ]
    assert onnx_cuda.headline(rows) == "-2 to 30.5 % below a plain run; no call waits"
    rows[1]["waits"] = True
    assert onnx_cuda.headline(rows).endswith("calls wait for the GPU at batch 8")


def test_the_onnx_model_is_one(tmp_path: Path):
    path = onnx_cuda.write_model(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.ones((1, *onnx_cuda.IMAGE), np.float32)})
    assert answer.shape == (1, onnx_cuda.CLASSES)
    assert 0 < np.abs(answer).max() < 1e3
