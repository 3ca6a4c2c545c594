"""Limiters: quotas on trees that look like the kernel's, and shares measured by work done."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from gslice.core.errors import FailedPrecondition, InvalidArgument
from gslice.device import cgroup
from gslice.device.cgroup import CgroupLimiter, CgroupRoot, find_root, remove_stale
from gslice.device.limiter import (
    WEIGHTS,
    Limiter,
    NoLimiter,
    ThreadsLimiter,
    availability,
    make_limiter,
    prioritise,
)

CPUS = sorted(os.sched_getaffinity(0))


def fake_proc(tmp_path: Path, mounts: str, group: str) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mounts").write_text(mounts)
    (proc / "cgroup").write_text(group)
    return proc


def test_nothing_mounted(tmp_path: Path) -> None:
    root, reason = find_root(fake_proc(tmp_path, "proc /proc proc rw 0 0\n", "0::/\n"))
    assert root is None
    assert reason == "v2: the cpu controller is not mounted; v1: the cpu controller is not mounted"


def test_v2_without_the_cpu_controller(tmp_path: Path) -> None:
    mount = tmp_path / "unified"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("memory pids\n")
    root, reason = find_root(fake_proc(tmp_path, f"c {mount} cgroup2 rw 0 0\n", "0::/\n"))
    assert root is None
    assert "the cpu controller is not there" in reason


def test_v1_quota_is_written_and_read_back(tmp_path: Path) -> None:
    limiter = CgroupLimiter(CgroupRoot(tmp_path, 1), [0, 1], "my model/x")
    group = tmp_path / f"gslice.my_model_x-{os.getpid()}"
    assert group.is_dir()
    assert limiter.apply(25.0, []) == 25.0
    assert (group / "cpu.cfs_period_us").read_text() == "5000"
    assert (group / "cpu.cfs_quota_us").read_text() == "2500"
    assert limiter.apply(100.0, []) == 100.0
    assert (group / "cpu.cfs_quota_us").read_text() == "-1"


def test_v2_quota_is_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("")
    limiter = CgroupLimiter(CgroupRoot(tmp_path, 2), [0, 1, 2, 3], "f")
    group = tmp_path / f"gslice.f-{os.getpid()}"
    assert (group / "cgroup.type").read_text() == "threaded"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert limiter.apply(50.0, []) == 50.0
    assert (group / "cpu.max").read_text() == "10000 5000"


def test_a_tiny_share_gets_a_longer_period(tmp_path: Path) -> None:
    limiter = CgroupLimiter(CgroupRoot(tmp_path, 1), [0, 1], "tiny")
    assert limiter.apply(1.0, []) == pytest.approx(1.0)
    group = tmp_path / f"gslice.tiny-{os.getpid()}"
    assert int((group / "cpu.cfs_quota_us").read_text()) == cgroup.QUOTA_MIN_US


def test_names() -> None:
    assert make_limiter("none", CPUS, "f").name == "none"
    assert make_limiter("threads", CPUS, "f").name == "threads"
    with pytest.raises(InvalidArgument, match="no limiter is called 'mps'"):
        make_limiter("mps", CPUS, "f")
    with pytest.raises(InvalidArgument, match="at least one core"):
        make_limiter("none", [], "f")
    assert [each.name for each in availability()] == ["cgroup", "threads", "none"]


def test_priorities_are_weights_and_niceness(tmp_path: Path) -> None:
    CgroupLimiter(CgroupRoot(tmp_path, 1), [0], "high", WEIGHTS["high"])
    group = tmp_path / f"gslice.high-{os.getpid()}"
    assert (group / "cpu.shares").read_text() == "3072"
    ours = os.getpriority(os.PRIO_PROCESS, 0)  # of whoever runs the tests
    spinner = Spinner()
    try:
        assert prioritise([spinner.tid], "low")
        assert os.getpriority(os.PRIO_PROCESS, spinner.tid) == 5
        assert os.getpriority(os.PRIO_PROCESS, 0) == ours
    finally:
        spinner.stop()


def test_stale_groups_go_and_living_ones_stay(tmp_path: Path) -> None:
    dead = tmp_path / "gslice.old-4194304999"  # above any pid
    mine = tmp_path / f"gslice.mine-{os.getpid()}"
    other = tmp_path / "somebody.else-1"
    for path in (dead, mine, other):
        path.mkdir()
    assert remove_stale(CgroupRoot(tmp_path, 1)) == [dead.name]
    assert mine.exists()
    assert other.exists()


class Spinner:
    """A thread that burns CPU and knows how much it got."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._started = threading.Event()
        self.cpu_s = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()
        assert self._thread.native_id is not None
        self.tid: int = self._thread.native_id

    def _run(self) -> None:
        self._started.set()
        while not self._stop.is_set():
            sum(range(1000))
        self.cpu_s = time.thread_time()

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.cpu_s


def test_threads_limiter_reads_back_whole_cores() -> None:
    spinner = Spinner()
    limiter = ThreadsLimiter(CPUS)
    try:
        assert limiter.apply(1.0, [spinner.tid]) == pytest.approx(100 / len(CPUS))
        assert len(os.sched_getaffinity(spinner.tid)) == 1
        assert limiter.apply(100.0, [spinner.tid]) == 100.0
        assert os.sched_getaffinity(spinner.tid) == set(CPUS)
        assert NoLimiter(CPUS).apply(10.0, [spinner.tid]) == 100.0
    finally:
        spinner.stop()


@pytest.mark.parametrize("limiter", [ThreadsLimiter(CPUS), NoLimiter(CPUS)])
def test_a_thread_that_has_ended_needs_no_limit(limiter: Limiter) -> None:
    ended, spinner = Spinner(), Spinner()
    ended.stop()
    try:
        tids = [ended.tid, spinner.tid]
        assert prioritise(tids, "low")
        assert os.getpriority(os.PRIO_PROCESS, spinner.tid) == 5
        assert limiter.apply(100.0, tids) == 100.0
    finally:
        spinner.stop()
    assert limiter.read_effective() == 100.0


class Burner:
    """Threads that compute side by side, without Python's lock, until they are stopped."""

    def __init__(self, count: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        self.tids = [thread.native_id or 0 for thread in self._threads]

    def _run(self) -> None:
        while not self._stop.is_set():
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2000)

    def cores_used(self, wall_s: float) -> float:
        """Processor time that all threads together got, in cores."""
        clocks = [time.pthread_getcpuclockid(thread.ident or 0) for thread in self._threads]
        began_s, before_s = time.monotonic(), sum(map(time.clock_gettime, clocks))
        self._stop.wait(wall_s)
        used_s = sum(map(time.clock_gettime, clocks)) - before_s
        return used_s / (time.monotonic() - began_s)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.alone
@pytest.mark.skipif(len(CPUS) < 2, reason="one core cannot be divided into whole ones")
def test_threads_limiter_limits_the_work_done() -> None:
    burner, limiter = Burner(2), ThreadsLimiter(CPUS[:2])
    try:
        assert limiter.apply(50.0, burner.tids) == 50.0
        assert 0 < burner.cores_used(1.0) < 1.05  # two where nothing limits and nobody else works
    finally:
        burner.stop()


needs_cgroup = pytest.mark.skipif(find_root()[0] is None, reason=f"no cgroup: {find_root()[1]}")


@pytest.mark.alone
@needs_cgroup
def test_a_quarter_is_a_quarter() -> None:
    root, _ = find_root()
    assert root is not None
    cpu = CPUS[:1]
    limiter = CgroupLimiter(root, cpu, "test")
    spinner = Spinner()
    try:
        assert limiter.apply(25.0, [spinner.tid]) == pytest.approx(25.0)
        clock = time.pthread_getcpuclockid(spinner._thread.ident or 0)
        began_s, cpu_s = time.monotonic(), time.clock_gettime(clock)
        while time.monotonic() < began_s + 1.0:
            spinner._thread.join(0.05)
        got = (time.clock_gettime(clock) - cpu_s) / (time.monotonic() - began_s)
        assert 0.15 < got < 0.32
    finally:
        spinner.stop()
        limiter.release()
        limiter.release()
    assert not list(root.path.glob(f"gslice.test-{os.getpid()}"))
    with pytest.raises(FailedPrecondition, match="released"):
        limiter.read_effective()
