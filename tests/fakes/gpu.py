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
import time
from collections.abc import Callable, Iterable, Sequence
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
    # What only NVML tells; -1: "not supported".
    utilization_percent: int = 37
    power_mw: int = 250_000
    power_limit_mw: int = 700_000
    temperature_c: int = 41
    pcie_generation: int = 5
    pcie_width: int = 16
    numa_node: int = 0
    cpu_mask: int = 0xFFFFFFFF
    compute_mode: int = 0
    mig: int = 0  # partitioned: CUDA shows its instances only
    parent: str = ""  # of a MIG instance: the UUID of its GPU
    mig_index: int = 0  # of a MIG instance: NVML's number of it there
    lost: int = 0  # NVML says so
    exports_memory: int = 1  # cuMemCreate's, as descriptors
    sm_group: int = 8  # the smallest part of the SMs that a green context can have
    sm_groups: int = 15  # at most: what an H100 has been seen to make of its 132 SMs


def make_gpus(count: int, **fields: object) -> list[Gpu]:
    """That many GPUs of one kind."""
    return [
        replace(
            Gpu(f"GPU-{i:08x}-fa4e-fa4e-fa4e-{i:012x}", pci_bus_id=f"00000000:{16 + i:02X}:00.0"),
            **fields,  # type: ignore[arg-type]
        )
        for i in range(count)
    ]


def make_instances(parent: Gpu, count: int, **fields: object) -> list[Gpu]:
    """That many MIG instances of a GPU; they come after all GPUs of a machine."""
    return [
        replace(
            parent,
            uuid=parent.uuid.replace("GPU-", "MIG-")[:-1] + f"{i + 1:x}",
            name=f"{parent.name} MIG 1g.10gb",
            **{"sms": 16, "memory_bytes": 10 * GIB, "memory_reserved_bytes": 64 << 20, **fields},  # type: ignore[arg-type]
            utilization_percent=-1,
            power_mw=-1,
            power_limit_mw=-1,
            pcie_generation=-1,
            pcie_width=-1,
            numa_node=-1,
            mig=0,
            parent=parent.uuid,
            mig_index=i,
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


class Hold:
    """Calls or operations that wait until they are let go; a `with` block lets go at its end."""

    def __init__(self, fake: FakeGpu, name: str) -> None:
        self._fake, self._name = fake, name
        self._path = fake.directory / "held" / name

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def reached(self) -> int:
        """How many have come so far."""
        return self._fake.total(f"plan.{self._name}")

    def reached_by(self) -> list[int]:
        """Processes of which some have come."""
        counter = f"plan.{self._name}"
        return [pid for pid in self._fake.pids() if self._fake.counters(pid).get(counter)]

    def wait_reached(self, count: int = 1, timeout_s: float = 20) -> None:
        """Until that many have come.

        Raises:
            TimeoutError: They did not.
        """
        wait_until(lambda: self.reached() >= count, f"{count} at {self._name}", timeout_s)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


class FakeGpu:
    """A machine with GPUs, for as long as the `with` block lasts.

    Args:
        gpus: What it has; a number makes that many H100.
        driver_version: As cuDriverGetVersion gives it: 12040 is CUDA 12.4.
        cuda: Whether libcuda.so.1 is there.
        nvml: Whether libnvidia-ml.so.1 is there.
        mps: Whether nvidia-cuda-mps-control is there.
        strict: Asynchronous copies of pageable memory are refused.
        opaque: The process cannot read device memory, as with a GPU; then its "kernels" can only be
            the few of cuda/kernels.cpp.
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
        opaque: bool = False,
    ) -> None:
        built = build()
        # Short, as sockets live below it.
        self.directory = Path(tempfile.mkdtemp(prefix="fakegpu-"))
        self.gpus = make_gpus(gpus) if isinstance(gpus, int) else list(gpus)
        (self.directory / "processes").mkdir()
        self._plan: list[dict[str, object]] = []
        self._rules = 0
        self.set_gpus(*self.gpus)
        settings = {"driver_version": driver_version, "strict": int(strict), "opaque": int(opaque)}
        self._write("settings", [settings])
        self.libraries = [built / name for name, there in (("cuda", cuda), ("nvml", nvml)) if there]
        # Beside it, the Python that runs it: what is found elsewhere may be slow to start.
        paths = [os.fspath(FAKES / "mps"), os.fspath(Path(sys.executable).parent)] if mps else []
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
        """Lets go what is held, ends what daemons the test left, and takes the machine away."""
        shutil.rmtree(self.directory / "held", ignore_errors=True)
        for pid_file in self.directory.rglob("nvidia-cuda-mps-control.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        shutil.rmtree(self.directory)

    # ---- what it is told

    def set_gpus(self, *gpus: Gpu) -> None:
        """What NVML tells from now on, and CUDA in processes that start later."""
        self.gpus = list(gpus)
        self._write("gpus", [asdict(gpu) for gpu in gpus])

    def fail(
        self,
        on: str,
        code: int,
        *,
        nth: int = 1,
        times: int = 1,
        total: int = 0,
        sticky: bool = False,
        process: str = "",
    ) -> None:
        """Calls of an entry return an error; or operations of a stream do, and the device is lost.

        Args:
            on: A pattern: `cuMemAlloc_v2`, `cuMem*`; or h2d, d2h, d2d, memset, kernel, host, graph.
            code: A CUresult.
            nth: The first match of a process that is meant.
            times: How many matches of a process are meant, from there.
            total: How many of all processes together are; 0: all.
            sticky: The device is lost with a call too.
            process: Part of the command line of the processes that are meant.
        """
        limits = {"nth": nth, "times": times, "total": total, "process": process}
        self._add(on, "fail", {"code": code, "sticky": int(sticky), **limits})

    def delay(self, on: str, us: int, *, process: str = "") -> None:
        """Calls or operations take so much longer."""
        self._add(on, "delay", {"us": us, "process": process})

    def hold(self, on: str, *, nth: int = 1, total: int = 0, process: str = "") -> Hold:
        """Calls or operations wait until the test lets go."""
        name = self._add(on, "hold", {"nth": nth, "total": total, "process": process})
        return Hold(self, name)

    def orphan(self, on: str, *, nth: int = 1, total: int = 0, process: str = "") -> Hold:
        """Operations are held too, and are then done even if their process is dead by that time."""
        name = self._add(on, "orphan", {"nth": nth, "total": total, "process": process})
        return Hold(self, name)

    def clear_plan(self) -> None:
        """Nothing more fails or waits, besides what waits already."""
        self._plan.clear()
        self._write("plan", [])

    def _add(self, on: str, action: str, rule: dict[str, object]) -> str:
        self._rules += 1
        name = f"{action}{self._rules}"
        if action in ("hold", "orphan"):
            # There before anybody can meet the rule.
            (self.directory / "held").mkdir(exist_ok=True)
            (self.directory / "held" / name).touch()
        self._plan.append({"id": name, "on": on, "action": action, **rule})
        self._write("plan", self._plan)
        return name

    def set_mps(self, **settings: object) -> None:
        """Settings of nvidia-cuda-mps-control, each in force at once: see mps/control.py."""
        self._write("mps_settings", [settings] if settings else [])

    # ---- what it saw

    def processes(self) -> list[int]:
        """Processes that called cuInit and live."""
        return [int(p.name) for p in self._process_files() if is_alive(p)]

    def pids(self) -> list[int]:
        """Processes that called cuInit, living or dead."""
        return [int(path.name) for path in self._process_files()]

    def counters(self, pid: int) -> dict[str, int]:
        """Of one process that called cuInit, also when it is dead."""
        return read_counters(self.directory / "processes" / str(pid))

    def total(self, counter: str) -> int:
        """Of all processes there ever were."""
        return sum(read_counters(path).get(counter, 0) for path in self._process_files())

    def shared_bytes(self) -> int:
        """Device memory that somebody maps or holds a descriptor of, in whatever process."""
        folder, held_bytes = self.directory / "allocations", 0
        for path in folder.glob("GPU-*") if folder.exists() else ():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held_bytes += os.fstat(file.fileno()).st_size
        return held_bytes

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


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    """For what another process does.

    Raises:
        TimeoutError: It did not, in that time.
    """
    ends_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.002)


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
