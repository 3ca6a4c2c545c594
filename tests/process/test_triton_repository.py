"""A Triton model repository, served, and asked through Triton's own client."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from gslice.demo.leftovers import Traces
from tests import models
from tests.cli import gslice
from tests.node import ANY_PORT, WAIT_S, Node
from tests.triton_repository import put

AFFINE = """
name: "affine"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 8 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
model_warmup [ { name: "one" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 8 ] random_data: true } } } ]
"""
SEEN = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 2, 4 ] reshape { shape: [ 8 ] } }
output { name: "y" data_type: TYPE_FP32 dims: [ 1, 3 ] reshape { shape: [ 3 ] } }
"""
WRONG = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP16 dims: 8 }
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    put(root, "affine", AFFINE, versions=(1, 3))
    put(root, "bare", make=models.nonzero)
    put(root, "seen", SEEN)
    put(root, "wrong", WRONG)
    put(root, "both", "ensemble_scheduling { }", versions=())
    return root


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[triton.InferenceServerClient, list[str]]]:
    """A client of `gslice serve --model-repository`, and what that has told."""
    with tempfile.TemporaryDirectory(prefix="gs") as home:
        traces = Traces(Path(home))
        command = [sys.executable, "-m", "gslice", "serve", "--model-repository", str(root)]
        for option in ("--grpc", "--http", "--metrics"):
            command += [option, ANY_PORT]
        process = subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, **traces.environment, "XDG_STATE_HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            told = []
            for line in process.stdout:
                told.append(line.rstrip())
                if line.startswith("ready:"):
                    break
            (address,) = (line.split()[1] for line in told if line.startswith("gRPC"))
            with triton.InferenceServerClient(address) as client:
                yield client, told
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=WAIT_S)
            assert process.returncode == 0
            assert traces.left() == []
        finally:
            process.kill()
            process.communicate()
            traces.kill(WAIT_S)


def infer(
    client: triton.InferenceServerClient, name: str, x: np.ndarray, version: str = ""
) -> np.ndarray:
    given = triton.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    answer = client.infer(name, [given], model_version=version, client_timeout=WAIT_S)
    return answer.as_numpy("y")


def test_a_repository_serves_tritons_client(repository: Path) -> None:
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    expected = {
        version: models.reference(repository / f"affine/{version}/model.onnx", {"x": x})["y"]
        for version in (1, 3)
    }
    with serving(repository) as (client, told):
        assert told[-1].startswith("ready: 3 of 4 functions serve")
        assert any("affine/config.pbtxt:6: output.label_filename: not hon" in line for line in told)
        assert any(line.startswith("warning: both is not served: it is an") for line in told)
        (failed,) = (line for line in told if line.startswith("wrong: FAILED"))
        assert "stated as FP16[-1, 8], and the model has FP32[-1, 8]" in failed

        np.testing.assert_allclose(infer(client, "affine", x, "3"), expected[3], rtol=1e-5)
        with pytest.raises(triton.InferenceServerException, match='no version "1", only "3"'):
            infer(client, "affine", x, "1")
        config = client.get_model_config("affine", as_json=True)["config"]
        assert config["max_batch_size"] == 4
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "500"
        assert config["instance_group"][0]["count"] == 2
        metadata = client.get_model_metadata("affine")
        assert list(metadata.versions) == ["3"]
        assert list(metadata.inputs[0].shape) == [-1, 8]

        seen = infer(client, "seen", x.reshape(3, 2, 4))
        np.testing.assert_allclose(seen, expected[3].reshape(3, 1, 3), rtol=1e-5)
        flat = np.array([0, 1, 0, 2], np.float32)
        assert infer(client, "bare", flat).tolist() == [[1, 3]]


def test_what_is_imported_is_served_alike(repository: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gs") as home:
        node = Node(Path(home), {})
        out = Path(home) / "imported.yaml"
        gslice("import", "triton", str(repository), "-o", str(out))
        mine, theirs = (path.read_text() for path in (node.config_path, out))
        node.config_path.write_text(
            mine.partition("functions:")[0] + "functions:" + theirs.partition("functions:")[2]
        )
        try:
            found = {each.name: each for each in node.start().status().functions}
            served = {name: (each.state, each.version) for name, each in found.items()}
            assert served.pop("wrong")[0] == "FAILED"
            assert served == {
                "affine": ("READY", "3"),
                "bare": ("READY", "1"),
                "seen": ("READY", "1"),
            }
            node.stop()
        finally:
            node.destroy()
