"""A small model repository on disk, as Triton lays it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests import models


def put(
    root: Path,
    name: str,
    config: str | None = None,
    *,
    make: Callable[[Path], Path] = models.affine,
    versions: tuple[int, ...] = (1,),
    file: str = "model.onnx",
) -> Path:
    """One model of it; returns its directory."""
    folder = root / name
    for number in versions:
        version = folder / str(number)
        version.mkdir(parents=True)
        make(version).rename(version / file)
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def empty_file(folder: Path) -> Path:
    """In place of a model that nobody is going to load."""
    path = folder / "empty"
    path.touch()
    return path
