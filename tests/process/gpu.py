"""What tests of nodes with GPUs share: functions, orders, looks. Fixtures are in conftest.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.gpu import FakeGpu
from tests.node import Node

FUNCTIONS = Path(__file__).parent / "functions"
MPS = {"cuda:0": {"limiter": "mps"}}


def meet(fake: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this process starts from now on finds the fake machine."""
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)


def on_gpu(name: str = "OnGpu", **settings: Any) -> dict[str, Any]:
    """The body of a function of tests/process/functions/gpu_zoo.py."""
    body = {"python": f"gpu_zoo:{name}", "python_path": str(FUNCTIONS), "device": "cuda:0"}
    return {**body, **settings}


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def mps_pid(node: Node) -> int:
    """The MPS control daemon's process."""
    return int((node.state_dir / "mps/0/control.pid").read_text().split()[0])


def load(node: Node, name: str, body: Mapping[str, Any]) -> list[str]:
    """Loads a function; the stages it went through."""
    with node.control() as control:
        return [stage.name for stage in control.load(name, json.dumps(body))]


def events(node: Node) -> str:
    """What the daemon logged."""
    with node.control() as control:
        return "\n".join(control.logs("daemon", 200))
