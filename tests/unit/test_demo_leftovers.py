from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.demo.leftovers import Traces


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr("gslice.demo.leftovers._CGROUP_ROOT", root)
    return root


def test_an_empty_group_that_was_not_there_is_left(cgroups: Path, tmp_path: Path) -> None:
    (cgroups / "gslice-before").mkdir()
    traces = Traces(tmp_path / "node")
    (cgroups / "user/gslice-1").mkdir(parents=True)
    assert traces.left() == [f"cgroup {cgroups}/user/gslice-1"]


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
    (cgroups / "gslice-1").mkdir()
    monkeypatch.setattr("os.scandir", losing)
    assert traces.left() == [f"cgroup {cgroups}/gslice-1"]
    assert not (cgroups / "vanishes").exists()
