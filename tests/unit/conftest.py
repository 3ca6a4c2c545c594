from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gslice.core.config import Config, load_config

NODE = """\
version: 1
node: {grpc: 127.0.0.1:9001, http: 127.0.0.1:9000, metrics: 127.0.0.1:9002, state_dir: ./state}
devices: {cpu: {limiter: none, limits: {share: 80%, memory: 60GiB}}}     # default: auto
defaults: {slo: {p99: 50ms}, batch: {max: 16, delay: auto}}
functions:
  detector: {model: ./detector.onnx, slo: {p99: 30ms}, share: auto, priority: high,
             queue: {max: 128}, warmup: samples/detector.npz}
  # labels pictures
  tagger: {python: my_pkg.tagger:Tagger, args: {threshold: 0.4}, share: 10%}  # fixed
"""


@pytest.fixture
def state_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a daemon without a node.yaml would keep its state."""
    # Unix sockets need short paths, and pytest's are long.
    with tempfile.TemporaryDirectory(prefix="gs") as state_home:
        monkeypatch.setenv("XDG_STATE_HOME", state_home)
        yield Path(state_home) / "gslice"


@pytest.fixture
def here(tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing of gslice in the environment."""
    for name in [name for name in os.environ if name.startswith("GSLICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def node_yaml(tmp_path: Path) -> Path:
    """NODE, in a file."""
    path = tmp_path / "node.yaml"
    path.write_text(NODE)
    return path


def load(path: Path, **environ: str) -> Config:
    """Reads a file in an environment of its own."""
    return load_config(path, environ=environ)
