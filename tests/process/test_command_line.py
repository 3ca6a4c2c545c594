"""The command line against a node that runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gslice.client import Client
from gslice.core.config import format_cores
from gslice.demo.leftovers import Traces
from tests import models
from tests.cli import gslice
from tests.node import ANY_PORT, WAIT_S, Node

ADDRESSES = ("--grpc", ANY_PORT, "--http", ANY_PORT, "--metrics", ANY_PORT)


# ---- a node without a node.yaml ------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="gs") as directory:
        yield Path(directory)


def test_serving_a_model_takes_no_yaml(home: Path, tmp_path: Path) -> None:
    model = models.affine(tmp_path)
    traces = Traces(home)
    serving = subprocess.Popen(
        [sys.executable, "-m", "gslice", "serve", str(model), *ADDRESSES],
        cwd=home,
        env={**os.environ, **traces.environment, "XDG_STATE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert serving.stdout is not None
        told = []
        for line in serving.stdout:
            told.append(line.rstrip())
            if line.startswith("ready:"):
                break
        assert told[-2:] == [
            "affine: READY on cpu",
            "ready: 1 of 1 functions serve; Ctrl-C stops",
        ]
        (address,) = (line.split()[1] for line in told if line.startswith("gRPC"))
        x = np.ones((2, 8), np.float32)
        with Client(address, timeout_s=WAIT_S) as client:
            answer = client.infer("affine", {"x": x})["y"]
        np.testing.assert_allclose(answer, models.reference(model, {"x": x})["y"], rtol=1e-6)
        serving.send_signal(signal.SIGINT)
        rest, log = serving.communicate(timeout=WAIT_S)
        assert (rest, serving.returncode) == ("stopped\n", 0)
        assert log.splitlines()[-1].endswith("daemon: stops")  # the last word: nothing has leaked
        assert traces.left() == []
    finally:
        serving.kill()
        serving.wait()
        traces.kill(WAIT_S)


# ---- changing a node -----------------------------------------------------------------------------


def commanded(node: Node, *args: str) -> str:
    return gslice(*args, "--state-dir", str(node.state_dir)).stdout


def test_a_loaded_function_is_what_its_file_says(start_node, identity, tmp_path: Path) -> None:
    device = f"cpu:{format_cores(os.sched_getaffinity(0))}"
    defaults = {"slo": {"p99": "50ms"}, "batch": {"max": 16}}
    node = start_node({"same": identity}, devices={device: {}}, defaults=defaults)
    file = tmp_path / "copy.yaml"
    file.write_text(
        "identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}\n"
        f"device: {device}\nslo: {{p99: none}}\nshare: {{min: 20%, max: 60%}}\n"
    )
    assert "done" in commanded(node, "load", "copy", "-f", str(file))
    assert (node.function("copy").device, node.function("copy").slo_p99_us) == (device, 0)
    assert node.function("same").slo_p99_us == 50_000
    shown = commanded(node, "ps").splitlines()
    assert [re.split(r"\s{2,}", line)[6] for line in shown[1:]] == ["auto", "20-60%"]
    commanded(node, "save")
    assert "p99: none" in node.config_path.read_text()
    assert commanded(node, "diff") == "what runs is what node.yaml says\n"


def test_save_leaves_an_edit_and_serves_it(start_node, identity) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        body = "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}, slo: {p99: 1s}}"
        list(control.load("same", body))
    assert node.function("same").slo_p99_us == 1_000_000
    edited = node.config_path.read_text().replace("INT64", "FP32")
    node.config_path.write_text(edited)
    result = gslice("save", "--state-dir", str(node.state_dir))
    assert "same was edited in" in result.stderr
    assert node.config_path.read_text() == edited
    assert node.function("same").slo_p99_us == 0
    x = np.array([[0.5]], np.float32)
    assert node.client().infer("same", {"x": x})["x"].tolist() == [[0.5]]
