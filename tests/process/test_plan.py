"""`gslice plan -c node.yaml`, of what a node has measured that does not run any more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.node import Node
from tests.process.gpu import on_gpu


def plan(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gslice", "plan", "-c", str(node.config_path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below, by its content's age and size."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def check_planned(node: Node) -> None:
    """A daemon could be asked; when it has ended, its profiles are found, and nothing changes."""
    told = plan(node).stderr.splitlines()
    assert told == [f"error: a daemon runs in {node.state_dir}", "hint: ask it: gslice plan"]
    node.stop()
    before = listing(node.state_dir)
    planned = plan(node, "--what-if", "f.rate=20", "--json")
    assert (planned.returncode, planned.stderr) == (0, "")
    (function,) = json.loads(planned.stdout)["functions"]
    (decision,) = function["decisions"]
    assert "not profiled" not in decision["reason"]
    assert decision["capacity_per_s"] > 20, decision
    assert listing(node.state_dir) == before


def test_profiles_of_the_cpu_are_found(start_node: Any, tmp_path: Path) -> None:
    model = models.identity(tmp_path, "INT64", ("N", 1))
    check_planned(start_node({"f": {"model": str(model), "slo": {"p99": "500ms"}}}))


@pytest.mark.parametrize("limiter", ["mps", "none", pytest.param("auto", marks=pytest.mark.soak)])
def test_profiles_of_a_gpu_are_found(start_gpu_node: Any, limiter: str) -> None:
    devices = {"cuda:0": {"limiter": limiter}}
    check_planned(start_gpu_node({"f": on_gpu(slo={"p99": "500ms"})}, devices=devices))


def test_of_a_node_that_never_ran_nothing_is_made(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(
        "version: 1\nnode: {state_dir: ./never}\ndevices: {'cuda:7': {}}\n"
        "functions: {a: {model: ./a.onnx, slo: {p99: 20ms}, device: 'cuda:7'}}\n"
    )
    (tmp_path / "a.onnx").touch()
    command = [sys.executable, "-m", "gslice", "plan", "-c", config]
    other = ["--state-dir", "other"]
    for options in ([], other):
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert "not profiled yet" in done.stdout
        assert done.stderr.startswith("not all GPUs can be used: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "node.yaml"]
