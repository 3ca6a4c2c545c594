from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


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
