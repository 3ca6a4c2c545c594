"""Control groups of whole programs, on trees that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.core.errors import FailedPrecondition
from gslice.device import program_group
from gslice.device.cgroup import CgroupRoot
from gslice.device.program_group import ProgramGroup, find_memory_root, limit_memory

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
    ("version", "file", "told"),
    [(1, "memory.memsw.limit_in_bytes", str(LIMIT)), (2, "memory.swap.max", "0")],
)
def test_swap_is_no_way_around_a_limit(tmp_path: Path, version: int, file: str, told: str) -> None:
    limit_memory(version, tmp_path, LIMIT)
    assert not (tmp_path / file).exists()  # a kernel that does not count it
    (tmp_path / file).touch()
    limit_memory(version, tmp_path, LIMIT)
    assert (tmp_path / file).read_text() == told


# ---- where ---------------------------------------------------------------------------------------


def fake_proc(tmp_path: Path, mount: str, line: str) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mounts").write_text(f"c {tmp_path}/mount {mount} 0 0\n")
    (proc / "cgroup").write_text(f"{line}\n")
    return proc


def test_v1_is_tried_in_our_own_group(tmp_path: Path) -> None:
    (tmp_path / "mount/a/b").mkdir(parents=True)
    root, reason = find_memory_root(fake_proc(tmp_path, "cgroup rw,memory", "4:memory:/a/b"))
    # A plain directory keeps the file that was written to try it, and so cannot be removed.
    assert root is None
    assert f"{tmp_path}/mount/a/b: Directory not empty" in reason


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    """A group of version 2 that its user may divide, with a group in it for the daemon."""
    group = tmp_path / "mount/a"
    (group / "b").mkdir(parents=True)
    for each in (group, group / "b"):
        (each / "cgroup.controllers").write_text("cpu memory pids\n")
    (group / "cgroup.subtree_control").write_text("")
    (group / "cgroup.procs").write_text("")
    os.setxattr(group, "user.delegate", b"1")
    return group


def files(group: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in group.iterdir() if path.is_file()}


def found(tmp_path: Path) -> tuple[CgroupRoot | None, str]:
    return find_memory_root(fake_proc(tmp_path, "cgroup2 rw", "0::/a/b"))


def test_v2_is_where_it_was_delegated_and_nothing_is_tried(tmp_path: Path, delegated: Path) -> None:
    before = files(delegated)
    assert found(tmp_path) == (CgroupRoot(delegated, 2), f"cgroup v2 at {delegated}")
    assert files(delegated) == before
    assert [path.name for path in delegated.iterdir() if path.is_dir()] == ["b"]


@pytest.mark.parametrize("mark", [b"", b"0"], ids=["none", "no"])
def test_v2_is_never_in_a_group_that_is_somebody_elses(
    tmp_path: Path, delegated: Path, mark: bytes
) -> None:
    os.removexattr(delegated, "user.delegate")
    if mark:
        os.setxattr(delegated, "user.delegate", mark)
    root, reason = found(tmp_path)
    assert root is None
    assert f"v2: {delegated}: it is not delegated" in reason


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("cgroup.controllers", "memory\n", "it has no controller cpu"),
        ("cgroup.procs", "1\n", "it holds processes itself"),
        ("cgroup.subtree_control", None, "it cannot be written"),
    ],
)
def test_v2_says_what_is_lacking(
    tmp_path: Path, delegated: Path, file: str, text: str | None, told: str
) -> None:
    if text is None:
        (delegated / file).unlink()
    else:
        (delegated / file).write_text(text)
    root, reason = found(tmp_path)
    assert root is None
    assert f"v2: {delegated}: {told}" in reason


def test_it_is_looked_for_once(tmp_path: Path, delegated: Path) -> None:
    proc = fake_proc(tmp_path, "cgroup2 rw", "0::/a/b")
    first = find_memory_root(proc)
    (proc / "mounts").unlink()
    assert find_memory_root(proc) is first
