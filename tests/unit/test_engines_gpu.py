"""Engines on a GPU, over the stand-ins of tests/fakes: the tests of *_on_gpu.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes.gpu import FakeGpu


def test_engines_on_a_gpu(fake_gpu: FakeGpu) -> None:
    tests = sorted(map(os.fspath, Path(__file__).parent.glob("*_on_gpu.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, **fake_gpu.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
