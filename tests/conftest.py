"""What holds for all tests."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes.gpu import FakeGpu

# Tests talk to nobody but loopback; onnxruntime would report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Nobody here multiplies large matrices, and every process would start threads for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def fake_gpu() -> Iterator[FakeGpu]:
    """A machine with one H100, of stand-ins: for child processes, by its `environment`."""
    with FakeGpu() as fake:
        yield fake
        assert fake.violations() == []
        assert fake.dirty_exits() == []
