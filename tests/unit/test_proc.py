"""What is read of processes, whatever they call themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gslice.core.proc import stat_fields
from gslice.core.types import FunctionSpec
from gslice.device.cgroup import lives
from gslice.device.program_group import ProgramGroup
from gslice.ipc.process import own_bytes, start_ticks
from gslice.supervise.program_note import Note, members


@pytest.fixture(autouse=True)
def strange_name() -> Iterator[None]:
    """This process has a name that was cut off within a letter, and holds what fields hold."""
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    comm.write_bytes(b"a) Z 1 (gr\xc3")
    yield
    comm.write_bytes(before)


def test_a_name_is_not_read() -> None:
    fields = stat_fields(os.getpid())
    assert int(fields[1]) == os.getppid()
    assert lives(os.getpid())
    assert start_ticks() == int(fields[19])
    assert own_bytes() > 0


def test_what_belongs_to_a_program_is_found_beside_it(tmp_path: Path) -> None:
    mine = Note(FunctionSpec("p"), "m" * 16, ProgramGroup(), "threads", "threads", (0,), 1.0)
    assert members(mine) == set()
    group = tmp_path / "group"
    (group / "cgroup.procs").mkdir(parents=True)  # reading it fails, as in a group for threads
    (group / "cgroup.threads").write_text(f"{os.getpid()}\n")
    assert ProgramGroup(cpu=str(group), cpu_version=2).processes() == {os.getpid()}
