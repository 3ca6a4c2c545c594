"""Engines on a GPU, over the stand-ins of tests/fakes: the tests of *_on_gpu.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize(
    "tests", ["engines_on_gpu.py", "onnx_on_gpu.py", "tensorrt_on_gpu.py", "torch_on_gpu.py"]
)
def test_engines_on_a_gpu(fake_gpu: FakeGpu, tests: str) -> None:
    path = Path(__file__).with_name(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.fspath(path)]
    environment = {**os.environ, **fake_gpu.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
