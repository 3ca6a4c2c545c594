"""The one place that knows the compiler: what the simulation's loops are decorated with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

_F = TypeVar("_F", bound=Callable[..., Any])

_HERE = Path(__file__).parent


def _digest() -> str:
    """Of all that may be compiled: numba's own cache does not see a change in what is called."""
    sources = (path.read_bytes() for path in sorted(_HERE.glob("*.py")))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


numba.config.CACHE_DIR = str(_HERE / "__pycache__" / f"compiled-{_digest()}")


def compiled(function: _F) -> _F:
    """Compiles a function when it is first called, and remembers the result on disk."""
    made: _F = numba.njit(cache=True)(function)
    return made


def inlined(function: _F) -> _F:
    """The same for a small function that is called often: `State` is expensive to hand over."""
    made: _F = numba.njit(cache=True, inline="always")(function)
    return made
