"""What is known of a function from an earlier load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.types import FunctionSpec, MemoryTaken

if TYPE_CHECKING:
    from gslice.core.types import Signature


@dataclass(frozen=True)
class Recalled:
    """What a load showed.

    Attributes:
        memory: What its largest instance took, part by part.
        load_us: How long it took, from the order until it served.
        signature: Of the model.
    """

    memory: MemoryTaken
    load_us: int
    signature: Signature


Recall = Callable[[FunctionSpec], Recalled | None]
"""What the last load of the same model, in the same engine and on the same device, showed."""


def nothing(spec: FunctionSpec) -> Recalled | None:
    """For whoever remembers nothing."""
    return None


def stamps(spec: FunctionSpec) -> list[list[int]]:
    """Changes with the files that a function's model is made of, as far as they are named."""
    model = [Path(spec.model)] if spec.model else []
    code = [code_file(spec)] if spec.python else []
    return [stamp(path) for path in (*model, *code)]


def code_file(spec: FunctionSpec) -> Path:
    """The file of a function's Python class or factory, as it would be imported."""
    module = Path(spec.python_path, spec.python.partition(":")[0].replace(".", "/"))
    package = module / "__init__.py"
    return package if package.is_file() else module.with_name(f"{module.name}.py")


def stamp(path: Path) -> list[int]:
    """Changes with a file; empty: it is not there."""
    try:
        stat = path.stat()
    except OSError:  # the load will say so
        return []
    return [stat.st_size, stat.st_mtime_ns]


def largest(taken: list[MemoryTaken]) -> MemoryTaken:
    """The largest of each part."""
    parts = vars(MemoryTaken())
    return MemoryTaken(**{p: max((vars(each)[p] for each in taken), default=0) for p in parts})
