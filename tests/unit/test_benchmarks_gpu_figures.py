"""How the steps of the GPU suite reckon, and what they make of their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.gpu import ablation, curves, doctor, mix, onnx_cuda, staging
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
        limiter = "mps" if way == "shares" else "none"
        YAML().dump(
            {"version": 1, "devices": {"cuda:0": {"limiter": limiter}}, "functions": functions},
            path,
        )
        config = load_config(path, environ={})
        assert [spec.engine for spec in config.functions.values()] == ["torch"] * 4
        shares = [spec.share.max_percent for spec in config.functions.values()]
        assert shares == ([25.0] * 4 if way == "shares" else [100.0] * 4)


def test_the_mix_sums_up_each_way():
    rows = [
        {"way": "shares", "p99_us": 4000.0, "rps": 100.0},
        {"way": "shares", "p99_us": 9000.0, "rps": 50.0},
        {"way": "shares", "rps": 150.0},
    ]
    assert mix.headline(rows) == "shares 150 requests/s, worst p99 9.0 ms"


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
