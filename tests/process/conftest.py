from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.fakes.gpu import FakeGpu
from tests.node import Node
from tests.process.gpu import meet

FUNCTIONS = Path(__file__).parent / "functions"


class StartNode(Protocol):
    def __call__(self, functions: dict[str, Any], **settings: Any) -> Node: ...


@contextlib.contextmanager
def started_nodes() -> Iterator[StartNode]:
    """Starts nodes; at the end every slot is FREE, they stop, and nothing is left."""
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="gs") as directory:
        Path(directory).chmod(0o711)  # workers may be other users

        def start(functions: dict[str, Any], **settings: Any) -> Node:
            ready = settings.pop("ready", True)
            home = Path(directory) / str(len(nodes))
            home.mkdir()
            nodes.append(Node(home, functions, **settings))
            return nodes[-1].start(ready=ready)

        try:
            yield start
            for node in nodes:
                if node.running:
                    for function in node.status().functions:
                        if function.workers and function.engine != "command":
                            node.wait_all_free(function.name)
                    node.stop()
                else:
                    node.assert_nothing_left()
        finally:
            for node in nodes:
                node.destroy()


@pytest.fixture
def start_node() -> Iterator[StartNode]:
    """Nodes of one test."""
    with started_nodes() as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_node() -> Iterator[StartNode]:
    """Nodes of all tests of a module, each of which leaves them as it found them."""
    with started_nodes() as start:
        yield start


@pytest.fixture(scope="session")
def zoo():
    """The body of a python function of tests/process/functions/zoo.py."""

    def body(name: str, **settings: Any) -> dict[str, Any]:
        return {"python": f"zoo:{name}", "python_path": str(FUNCTIONS), **settings}

    return body


@pytest.fixture
def identity() -> dict[str, Any]:
    """The body of an identity function: numbers, any number of rows."""
    return {"identity": {"inputs": [{"name": "x", "dtype": "INT64", "dims": [-1, 1]}]}}


class GateFile:
    """A FIFO at which a function waits until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Waits for one waiting call and lets it pass."""
        with self.held():
            pass

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits for one waiting call, which passes at the end of the block."""
        with self.path.open("wb"):
            yield


@pytest.fixture
def gate(tmp_path: Path) -> GateFile:
    return GateFile(tmp_path / "gate")


@pytest.fixture
def gpu(fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """The fake machine, met by every process that a node starts."""
    meet(fake_gpu, monkeypatch)
    yield fake_gpu
    assert fake_gpu.processes() == []
    assert fake_gpu.shared_bytes() == 0


@pytest.fixture
def start_gpu_node(gpu: FakeGpu, start_node: StartNode) -> StartNode:
    """Nodes that end before the machine is looked at."""
    return start_node
