"""Control groups of whole programs, on trees that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.core.errors import FailedPrecondition
from gslice.device import program_group
from gslice.device.cgroup import CgroupRoot
from gslice.device.program_group import ProgramGroup, find_memory_root

LIMIT = 2 << 30


def roots(
    monkeypatch: pytest.MonkeyPatch, cpu: CgroupRoot | None, memory: CgroupRoot | None
) -> None:
    monkeypatch.setattr(program_group, "find_root", lambda: (cpu, ""))
    monkeypatch.setattr(program_group, "find_memory_root", lambda: (memory, ""))


def test_v1_has_a_group_for_each_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu", "memory"):
        (tmp_path / name).mkdir()
    roots(monkeypatch, CgroupRoot(tmp_path / "cpu", 1), CgroupRoot(tmp_path / "memory", 1))
    group = ProgramGroup.make("my llm", 3.0, LIMIT)
    cpu, memory = Path(group.cpu), Path(group.memory)
    assert cpu.parent == tmp_path / "cpu"
    assert memory == tmp_path / "memory" / cpu.name
    assert cpu.name.startswith("gslice.my_llm-")
    assert cpu.name.endswith(f"-{os.getpid()}")
    assert (cpu / "cpu.shares").read_text() == "3072"
    assert (memory / "memory.limit_in_bytes").read_text() == str(LIMIT)
    assert group.entrances == [f"{cpu}/cgroup.procs", f"{memory}/cgroup.procs"]
    group.set_share(4, 25.0)
    assert (cpu / "cpu.cfs_quota_us").read_text() == "5000"
    assert group.read_share(4) == 25.0


def test_v2_has_one_group_for_both_where_it_was_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "daemon"
    own.mkdir()
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    roots(monkeypatch, CgroupRoot(own, 2), CgroupRoot(tmp_path, 2))
    group = ProgramGroup.make("llm", 1.0, LIMIT)
    assert group.cpu == group.memory
    assert Path(group.cpu).parent == tmp_path
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert (Path(group.memory) / "memory.max").read_text() == str(LIMIT)
    assert not (Path(group.cpu) / "cgroup.type").exists()  # its own memory, not its parent's
    group.set_share(2, 50.0)
    assert (Path(group.cpu) / "cpu.max").read_text() == "5000 5000"
    assert len(group.entrances) == 1


def test_v2_limits_cores_alone_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("")
    roots(monkeypatch, CgroupRoot(tmp_path, 2), None)
    group = ProgramGroup.make("llm", 1.0, LIMIT)
    assert group.memory == ""
    assert (Path(group.cpu) / "cgroup.type").read_text() == "threaded"


def test_without_any_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    roots(monkeypatch, None, None)
    group = ProgramGroup.make("llm", 1.0, LIMIT)
    assert (group.entrances, group.processes()) == ([], set())
    group.release()
    with pytest.raises(FailedPrecondition, match="no cgroup that could limit its cores"):
        group.set_share(2, 50.0)
    with pytest.raises(FailedPrecondition, match="no cgroup that could limit its cores"):
        group.read_share(2)


def test_one_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").mkdir()
    roots(monkeypatch, CgroupRoot(tmp_path / "cpu", 1), CgroupRoot(tmp_path / "nowhere", 1))
    with pytest.raises(FailedPrecondition, match=r"function llm: its cgroup gslice\.llm-"):
        ProgramGroup.make("llm", 1.0, LIMIT)
    assert list((tmp_path / "cpu").iterdir()) == []


def test_processes_are_found_by_their_threads_where_only_those_are_told(tmp_path: Path) -> None:
    group = tmp_path / "group"
    (group / "cgroup.procs").mkdir(parents=True)  # reading it fails, as in a group for threads
    (group / "cgroup.threads").write_text(f"{os.getpid()}\n{2**22 + 1}\n")
    assert ProgramGroup(cpu=str(group), cpu_version=2).processes() == {os.getpid()}
    assert ProgramGroup(cpu=str(tmp_path / "gone"), cpu_version=2).processes() == set()


@pytest.mark.parametrize(
    ("kind", "options", "line", "place"),
    [("cgroup", "rw,memory", "4:memory:/a/b", "a/b"), ("cgroup2", "rw", "0::/a/b", "a")],
)
def test_where_memory_can_be_limited(
    tmp_path: Path, kind: str, options: str, line: str, place: str
) -> None:
    mount, proc = tmp_path / "mount", tmp_path / "proc"
    (mount / "a/b").mkdir(parents=True)
    proc.mkdir()
    for name in ("a", "a/b"):
        (mount / name / "cgroup.controllers").write_text("cpu memory\n")
    (mount / "a/cgroup.subtree_control").write_text("cpu memory\n")
    (proc / "mounts").write_text(f"c {mount} {kind} {options} 0 0\n")
    (proc / "cgroup").write_text(f"{line}\n")
    # A plain directory keeps the file that was written to try it, and so cannot be removed.
    root, reason = find_memory_root(proc)
    assert root is None
    assert f"{mount / place}: Directory not empty" in reason
