from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gslice import _native
from gslice.core.config import Config, load_config
from tests.unit import command_bench
from tests.unit.client_memory_bench import PREFIX, SECRET
from tests.unit.gpu_bench import Bench

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


@pytest.fixture
def on_gpu(tmp_path: Path) -> Callable[..., None]:
    """Runs a test on a loop, with a GPU that is ready."""

    def run(test: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            bench = Bench(tmp_path, **settings)
            await bench.gpu.ready()
            await test(bench)

        asyncio.run(main())

    return run


@pytest.fixture
def on_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test on a loop, over commands whose programs are made up."""

    def run(test: Callable[[command_bench.Bench], Awaitable[None]]) -> None:
        async def main() -> None:
            bench = command_bench.Bench(tmp_path, monkeypatch)
            await test(bench)
            await bench.supervisor.stop(1.0)
            assert all(program.cleared for program in bench.programs)

        asyncio.run(main())

    return run


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """For a whole module: its tests close what they open."""
    gc.collect()  # what other tests have left
    before = _open_fds()
    yield
    assert _open_fds() == before


@pytest.fixture
def shm_key() -> Iterator[str]:
    """The key of 4096 bytes in /dev/shm."""
    path = Path("/dev/shm" + PREFIX + "a")
    path.write_bytes(bytes(4096))
    yield PREFIX + "a"
    path.unlink(missing_ok=True)


@pytest.fixture
def memfd() -> Iterator[int]:
    """A client's own memory, sealed."""
    fd = os.memfd_create(SECRET, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield fd
    os.close(fd)


@pytest.fixture
def cuda() -> Iterator[_native.CudaDevice]:
    """The first GPU that this process finds, with two lanes."""
    device = _native.CudaDevice(0, 2)
    yield device
    device.close()


def load(path: Path, **environ: str) -> Config:
    """Reads a file in an environment of its own."""
    return load_config(path, environ=environ)


def _open_fds() -> int:
    return sum(os.path.lexists(link) for link in Path("/proc/self/fd").iterdir())
