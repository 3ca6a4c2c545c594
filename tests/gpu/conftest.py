"""What only a GPU can prove. Without one every test here is skipped, with the reason."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.step import Skipped
from tests.node import Node

FUNCTIONS = Path(__file__).parent / "functions"
_LOOK = (
    "import json; from benchmarks.gpu.driver import Driver; "
    "print(json.dumps(Driver().device_count()))"
)


@pytest.fixture(scope="session", autouse=True)
def gpu_count() -> int:
    """How many GPUs there are; looked at in another process, so that MPS can be chosen here."""
    look = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True)
    if look.returncode != 0:
        pytest.skip(f"no GPU: {look.stderr.strip().splitlines()[-1]}")
    count: int = json.loads(look.stdout)
    if count == 0:
        pytest.skip("no GPU: the driver lists none")
    return count


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """The first GPU, by the suite's own driver."""
    with Gpu() as gpu:
        yield gpu


@pytest.fixture(scope="session")
def whole() -> int:
    """SMs of the whole GPU, as a process without MPS sees them."""
    answer = Client("limit", {}).finish()
    assert "sms" in answer, answer
    return int(answer["sms"])


@pytest.fixture
def mps() -> Iterator[Mps]:
    """A private MPS daemon."""
    with contextlib.ExitStack() as stack:
        try:
            daemon = stack.enter_context(Mps())
        except Skipped as reason:
            pytest.skip(str(reason))
        yield daemon


@pytest.fixture
def torch_function() -> Callable[..., dict[str, Any]]:
    """The body of a function of tests/gpu/functions/tensors.py."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")

    def body(name: str, **settings: Any) -> dict[str, Any]:
        place = {"torch": f"tensors:{name}", "python_path": str(FUNCTIONS), "device": "cuda:0"}
        return {**place, **settings}

    return body


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    """Starts a node on the first GPU; at the end it stops, and nothing is left."""
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="gs", dir="/tmp") as directory:

        def start(functions: Mapping[str, Any], limiter: str) -> Node:
            home = Path(directory) / str(len(nodes))
            home.mkdir()
            nodes.append(Node(home, functions, devices={"cuda:0": {"limiter": limiter}}))
            return nodes[-1].start()

        try:
            yield start
            for node in nodes:
                node.stop()
        finally:
            for node in nodes:
                node.destroy()
