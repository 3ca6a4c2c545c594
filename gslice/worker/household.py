"""What the functions of one process have in common: their GPU, and the modules of users' code."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from gslice.worker.gpu import ORDINAL
from gslice.worker.green import GreenGpu


class UserModules:
    """The modules of users' code that functions of this process have imported.

    Each load imports them anew: they may have changed, and have a state that is the function's. Who
    has imported them before keeps what it has. One load at a time.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    @contextlib.contextmanager
    def fresh(self, folder: str) -> Iterator[None]:
        """Around a load.

        Args:
            folder: Where the function's modules are looked for first; empty: it has none.
        """
        if not folder:
            yield
            return
        for name in self._names:
            sys.modules.pop(name, None)
        self._names.clear()
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        before, writes = set(sys.modules), sys.dont_write_bytecode
        # Bytecode is known by second and size of its source: an edit may have both in common.
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.dont_write_bytecode = writes
            come = ((name, sys.modules[name]) for name in sys.modules.keys() - before)
            self._names.update(name for name, module in come if _lies_in(folder, module))


def _lies_in(folder: str, module: object) -> bool:
    """Whether it is Python code of that folder, and not of packages that are installed there."""
    path = getattr(module, "__file__", None) or ""
    return path.startswith(f"{folder}/") and path.endswith(".py") and "-packages/" not in path


@dataclass(frozen=True)
class Household:
    """See the module.

    Attributes:
        gpu: Split once, for all.
        modules: Of users' code.
    """

    gpu: GreenGpu = field(default_factory=lambda: GreenGpu(ORDINAL))
    modules: UserModules = field(default_factory=UserModules)
