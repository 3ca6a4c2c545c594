"""Which deaths are the kernel's, by its counts in control groups that are files here."""

from __future__ import annotations

from pathlib import Path

import pytest

from gslice.supervise.oom import FRESH_S, KILLED, OomWatch


class Machine:
    """Processes 7 and 8 in one memory group, of a version."""

    def __init__(self, root: Path, version: int) -> None:
        self.proc, mount = root / "proc", root / "mount"
        self.group = mount / "one"
        self.group.mkdir(parents=True)
        self._file = self.group / ("memory.events.local" if version == 2 else "memory.oom_control")
        kind, line = ("cgroup2", "0::/one") if version == 2 else ("cgroup", "4:memory:/one")
        for pid in (7, 8):
            process = self.proc / str(pid)
            process.mkdir(parents=True)
            (process / "mounts").write_text(f"none {mount} {kind} rw,memory 0 0\n")
            (process / "cgroup").write_text(f"{line}\n")
        (self.group / "cgroup.controllers").write_text("cpu memory\n")
        self.count(3)

    def count(self, kills: int) -> None:
        self._file.write_text(f"under_oom 0\noom 99\noom_kill {kills}\n")


@pytest.fixture(params=[1, 2])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    return Machine(tmp_path, request.param)


@pytest.fixture
def oom(machine: Machine) -> OomWatch:
    watch = OomWatch(machine.proc)
    for pid in (7, 8):
        watch.watch(pid, 0.0)
    return watch


def test_a_count_that_grew_explains_one_death(machine: Machine, oom: OomWatch) -> None:
    machine.count(4)
    told = f"{KILLED}: the kernel found no memory for it in {machine.group}"
    assert oom.explain(7, KILLED, 1.0) == told
    assert oom.explain(8, KILLED, 1.0) == KILLED
    machine.count(5)
    assert oom.explain(8, KILLED, 2.0) == told


def test_what_was_counted_before_explains_nothing(machine: Machine, oom: OomWatch) -> None:
    assert oom.explain(7, KILLED, 1.0) == KILLED


def test_no_other_end_is_the_kernel_s(machine: Machine, oom: OomWatch) -> None:
    machine.count(4)
    assert oom.explain(7, "killed by SIGSEGV", 1.0) == "killed by SIGSEGV"
    assert oom.explain(9, KILLED, 1.0) == KILLED


def test_the_kill_of_somebody_else_is_soon_forgotten(machine: Machine, oom: OomWatch) -> None:
    machine.count(4)
    oom.look(1.0)
    assert oom.explain(7, KILLED, 1.0 + FRESH_S) != KILLED  # it may have taken that long to end
    machine.count(5)
    oom.look(20.0)
    assert oom.explain(8, KILLED, 20.1 + FRESH_S) == KILLED


def test_a_process_that_was_moved_is_explained_by_its_new_group(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1)
    oom = OomWatch(machine.proc)
    (machine.proc / "7/cgroup").write_text("4:memory:/\n")
    oom.watch(7, 0.0)
    (machine.proc / "7/cgroup").write_text("4:memory:/one\n")
    oom.watch(7, 1.0)
    machine.count(4)
    assert oom.explain(7, KILLED, 2.0) != KILLED


def test_a_group_that_is_gone_explains_nothing(machine: Machine, oom: OomWatch) -> None:
    for path in machine.group.iterdir():
        path.unlink()
    oom.look(1.0)
    assert oom.explain(7, KILLED, 1.0) == KILLED


def test_a_process_without_such_a_group(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 2)
    (machine.group / "cgroup.controllers").write_text("cpu\n")
    oom = OomWatch(machine.proc)
    oom.watch(7, 0.0)
    oom.watch(11, 0.0)  # it has ended already
    machine.count(4)
    assert oom.explain(7, KILLED, 1.0) == KILLED
    oom.forget(7)
