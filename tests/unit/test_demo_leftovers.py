from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.demo.leftovers import Traces

DEAD = 1 << 23  # no process has such an id


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr("gslice.demo.leftovers._CGROUP_ROOT", root)
    return root


def test_an_empty_group_that_was_not_there_is_left(cgroups: Path, tmp_path: Path) -> None:
    (cgroups / "gslice-before").mkdir()
    traces = Traces(tmp_path / "node")
    (cgroups / f"user/gslice.f-{DEAD}").mkdir(parents=True)
    assert traces.left() == [f"cgroup {cgroups}/user/gslice.f-{DEAD}"]


def test_an_empty_group_of_who_lives_is_another_nodes(cgroups: Path, tmp_path: Path) -> None:
    traces = Traces(tmp_path / "node")
    (cgroups / f"gslice.probe-{os.getpid()}").mkdir()
    assert traces.left() == []


def test_groups_may_vanish_while_they_are_looked_for(
    cgroups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def losing(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "vanishes":
            Path(path).rmdir()
        return scandir(path)

    traces = Traces(tmp_path / "node")
    (cgroups / "vanishes").mkdir()
    (cgroups / f"gslice.f-{DEAD}").mkdir()
    monkeypatch.setattr("os.scandir", losing)
    assert traces.left() == [f"cgroup {cgroups}/gslice.f-{DEAD}"]
    assert not (cgroups / "vanishes").exists()
