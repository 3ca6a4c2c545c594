"""What a function's files are to the user that its worker runs as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from gslice.core.errors import LoadFailed
from gslice.core.types import FunctionSpec


def check_readable(spec: FunctionSpec) -> None:
    """Refuses files that are closed to this user: engines say it in many ways, and few so.

    Raises:
        LoadFailed: which, and to whom.
    """
    for path in map(Path, filter(None, (spec.model, spec.python_path, spec.warmup))):
        try:
            path.stat()
            closed = not os.access(path, os.R_OK)
        except FileNotFoundError:  # engines say that well
            continue
        except PermissionError:
            closed = True
        if closed:
            raise LoadFailed(
                f"function {spec.name}: user {_own_name()} may not read {path}",
                hint="open it and the directories above it to that user",
            )


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
