"""Model files, checked before an engine's own words about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import LoadFailed

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec


def check_model_file(spec: FunctionSpec) -> None:
    """Sees that the model's file is there to be read.

    Raises:
        LoadFailed: It is not.
    """
    path = Path(spec.model)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise LoadFailed(f"function {spec.name}: the model {path} {what}")
    try:
        if path.stat().st_size == 0:
            raise LoadFailed(f"function {spec.name}: the model {path} is empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise LoadFailed(
            f"function {spec.name}: the model {path} cannot be read: {error.strerror}"
        ) from error
