"""A GPU where there is none: stand-ins for libcuda, NVML and nvidia-cuda-mps-control.

`FakeGpu.environment` goes to a child process, which then meets the stand-ins where it would meet
NVIDIA's. What they do is told, and can be asked, through the files of `FakeGpu.directory`; product
code knows nothing of them. tests/fakes/README.md tells what they can.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from tests.fakes.mps.processes import is_alive, read_counters

FAKES = Path(__file__).parent
BUILD = FAKES.parents[1] / "build" / "fakes"
GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One GPU of the machine; each field is a word of its record in the file `gpus`."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    pci_bus_id: str = "00000000:10:00.0"
    sms: int = 132
    sms_step: int = 2
    capability_major: int = 9
    capability_minor: int = 0
    memory_bytes: int = 80 * GIB
    memory_reserved_bytes: int = 512 << 20


def make_gpus(count: int, **fields: object) -> list[Gpu]:
    """That many GPUs of one kind."""
    return [
        replace(
            Gpu(f"GPU-{i:08x}-fa4e-fa4e-fa4e-{i:012x}", pci_bus_id=f"00000000:{16 + i:02X}:00.0"),
            **fields,  # type: ignore[arg-type]
        )
        for i in range(count)
    ]


@cache
def build() -> Path:
    """Builds the stand-in libraries, once a session, and returns where they lie.

    Raises:
        RuntimeError: They do not compile.
    """
    cmake = shutil.which("cmake", path=f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}")
    if cmake is None:
        raise RuntimeError("no cmake to build tests/fakes with; install gslice[dev]")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            [cmake, "-S", os.fspath(FAKES), "-B", os.fspath(BUILD)],
            [cmake, "--build", os.fspath(BUILD), "--parallel", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return BUILD


class FakeGpu:
    """A machine with GPUs, for as long as the `with` block lasts.

    Args:
        gpus: What it has; a number makes that many H100.
        driver_version: As cuDriverGetVersion gives it: 12040 is CUDA 12.4.
        cuda: Whether libcuda.so.1 is there.
        nvml: Whether libnvidia-ml.so.1 is there.
        mps: Whether nvidia-cuda-mps-control is there.
        strict: Asynchronous copies of pageable memory are refused.
    """

    def __init__(
        self,
        gpus: int | Sequence[Gpu] = 1,
        *,
        driver_version: int = 13000,
        cuda: bool = True,
        nvml: bool = True,
        mps: bool = True,
        strict: bool = True,
    ) -> None:
        built = build()
        # Short, as sockets live below it.
        self.directory = Path(tempfile.mkdtemp(prefix="fakegpu-"))
        self.gpus = make_gpus(gpus) if isinstance(gpus, int) else list(gpus)
        (self.directory / "processes").mkdir()
        self._write("gpus", [asdict(gpu) for gpu in self.gpus])
        self._write("settings", [{"driver_version": driver_version, "strict": int(strict)}])
        self.libraries = [built / name for name, there in (("cuda", cuda), ("nvml", nvml)) if there]
        paths = [os.fspath(FAKES / "mps")] if mps else []
        self.environment = {
            "GSLICE_FAKE_GPU": os.fspath(self.directory),
            "LD_LIBRARY_PATH": _joined(map(os.fspath, self.libraries), "LD_LIBRARY_PATH"),
            "PATH": _joined(paths, "PATH"),
        }

    def __enter__(self) -> FakeGpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what daemons the test left behind, and takes the machine away."""
        for pid_file in self.directory.rglob("nvidia-cuda-mps-control.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        shutil.rmtree(self.directory)

    # ---- what it is told

    def set_mps(self, **settings: object) -> None:
        """Settings of nvidia-cuda-mps-control, each in force at once: see mps/control.py."""
        self._write("mps", [settings] if settings else [])

    # ---- what it saw

    def processes(self) -> list[int]:
        """Processes that called cuInit and live."""
        return [int(p.name) for p in self._process_files() if is_alive(p)]

    def counters(self, pid: int) -> dict[str, int]:
        """Of one process that called cuInit, also when it is dead."""
        return read_counters(self.directory / "processes" / str(pid))

    def total(self, counter: str) -> int:
        """Of all processes there ever were."""
        return sum(read_counters(path).get(counter, 0) for path in self._process_files())

    def violations(self) -> list[str]:
        """What processes did that a GPU would not forgive; a test ends with none."""
        return self._lines("violations")

    def dirty_exits(self) -> list[int]:
        """MPS clients that ended with work in flight."""
        return [int(line) for line in self._lines("dirty_exits")]

    def _process_files(self) -> list[Path]:
        return sorted((self.directory / "processes").iterdir())

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def _write(self, name: str, records: Iterable[dict[str, object]]) -> None:
        lines = ("\t".join(f"{k}={v}" for k, v in record.items()) + "\n" for record in records)
        draft = self.directory / f".{name}"
        draft.write_text("".join(lines))
        draft.rename(self.directory / name)


def load_into_this_process(fake: FakeGpu) -> None:
    """Whoever opens libcuda.so.1 or libnvidia-ml.so.1 here from now on finds the stand-ins.

    Once a process: libcuda keeps the machine that it first saw.
    """
    os.environ["GSLICE_FAKE_GPU"] = os.fspath(fake.directory)
    for directory in fake.libraries:
        for library in directory.glob("lib*.so.1"):
            ctypes.CDLL(os.fspath(library), mode=os.RTLD_GLOBAL)


def _joined(paths: Iterable[str], variable: str) -> str:
    return os.pathsep.join([*paths, *filter(None, [os.environ.get(variable, "")])])
