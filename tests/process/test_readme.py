"""The README's way from a checkout to the first answer of an own model."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gslice.demo.leftovers import Traces
from tests import models
from tests.node import ANY_PORT, WAIT_S

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
ADDRESSES = {f"GSLICE_NODE__{name}": ANY_PORT for name in ("GRPC", "HTTP", "METRICS")}


def commands() -> list[list[str]]:
    """The first block under the heading, less comments."""
    block = re.search(
        r"^## Serve your own\n.*?```console\n(.*?)```", README, re.MULTILINE | re.DOTALL
    )
    assert block is not None
    return [shlex.split(line[2:], comments=True) for line in block[1].splitlines()]


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="gs") as directory:
        yield Path(directory)


@contextlib.contextmanager
def serving(command: list[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that takes requests; it ends in order."""
    traces = Traces(home)
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=home,
        env={**os.environ, **ADDRESSES, **traces.environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        assert any(line.startswith("ready: 1 of 1") for line in server.stdout)
        yield server
        server.terminate()
        assert server.communicate(timeout=WAIT_S)[0] == "stopped\n"
        assert server.returncode == 0
        assert traces.left() == []
    finally:
        server.kill()
        server.wait()
        traces.kill(WAIT_S)


def test_five_commands_from_the_checkout_to_an_answer(home: Path) -> None:
    environment, install, init, serve, infer = commands()
    assert environment[:3] == ["python3", "-m", "venv"]
    assert install == ["pip", "install", ".[cpu]"]
    (model,) = (word for word in init if word.endswith(".onnx"))
    models.affine(home).rename(home / model)

    def run(command: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"next: {shlex.join(serve)}\n" in (told := run(init))
    assert f"then, beside it: {shlex.join(infer)}\n" in told
    with serving(serve, home):
        answer = run(infer)
    assert "made-up inputs: x FP32 1x8" in answer
    assert re.search(r"^y +FP32 +1x3 ", answer, re.MULTILINE)
    assert f"{infer[-1]} answered in " in answer
