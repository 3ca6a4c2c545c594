"""What holds for all tests."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.certificates import Authority
from tests.fakes.gpu import FakeGpu

# Tests talk to nobody but loopback; onnxruntime would report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A machine that stalls is no failure, and neither is an example that only today's chance finds.
STALLS = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile(
    "gslice", deadline=None, derandomize=True, max_examples=40, suppress_health_check=STALLS
)
# `make soak` looks for new ones, and longer.
settings.register_profile("long", deadline=None, max_examples=1000, suppress_health_check=STALLS)
settings.load_profile("gslice")
# Nobody here multiplies large matrices, and every process would start threads for it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Thousands of tests are collected into millions of objects, all of which stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Whoever looks for garbage from now on looks at what the tests themselves have made."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that signs certificates for servers and clients of tests."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def fake_gpu() -> Iterator[FakeGpu]:
    """A machine with one H100, of stand-ins: for child processes, by its `environment`."""
    with FakeGpu() as fake:
        yield fake
        assert fake.violations() == []
        assert fake.dirty_exits() == []


@pytest.fixture(autouse=True)
def _same_cores() -> Iterator[None]:
    """Whoever pins the tests' own process makes others fail, much later."""
    before = os.sched_getaffinity(0)
    yield
    after = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    assert after == before, "the test left its process on other cores"
