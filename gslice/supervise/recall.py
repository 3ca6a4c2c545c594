"""What is known of a function from an earlier load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
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


def model_files(spec: FunctionSpec) -> list[Path]:
    """The files that a function's model is made of, as far as they are named."""
    model = [Path(spec.model)] if spec.model else []
    return [*model, code_file(spec)] if spec.python else model


def code_file(spec: FunctionSpec) -> Path:
    """The file of a function's Python class or factory, as it would be imported."""
    module = Path(spec.python_path, spec.python.partition(":")[0].replace(".", "/"))
    package = module / "__init__.py"
    return package if package.is_file() else module.with_name(f"{module.name}.py")


def stamp(path: Path) -> list[int]:
    """Changes with a file, and not from one machine to the next; empty: it is not there."""
    try:
        stat = path.stat()
    except OSError:  # the load will say so
        return []
    return [stat.st_size, stat.st_mtime_ns]


def file_state(path: Path) -> tuple[int, ...]:
    """Changes with a file, also where somebody sets its times to what they like.

    Raises:
        OSError: it is not there, or is no regular file: nobody knows where that ends.
    """
    stat = path.stat()
    if not S_ISREG(stat.st_mode):
        raise OSError(f"{path} is no file")
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def largest(taken: list[MemoryTaken]) -> MemoryTaken:
    """The largest of each part."""
    parts = vars(MemoryTaken())
    return MemoryTaken(**{p: max((vars(each)[p] for each in taken), default=0) for p in parts})
