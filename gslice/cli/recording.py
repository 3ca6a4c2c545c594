"""Requests kept as samples: what `warmup` of a function names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import InvalidArgument
from gslice.core.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


def add_sample(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """Adds a request to a file of samples, which is made if it is not there.

    Args:
        path: An .npz of samples.
        arrays: By input.

    Returns:
        How many there are now.

    Raises:
        InvalidArgument: the file is something else, or the request cannot be kept in one.
    """
    import numpy as np

    if path.suffix != ".npz":
        raise InvalidArgument(f"{path}: samples are kept in an .npz")
    kept: dict[str, np.ndarray] = {}
    if path.exists():
        try:
            with np.load(path) as archive:
                kept = {name: archive[name] for name in archive.files}
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{path} is no file of samples: {error}") from error
    numbers = [name.partition("/")[0] for name in kept]
    if not all(number.isdigit() for number in numbers):
        raise InvalidArgument(f"{path} holds one sample that is not numbered", hint="name another")
    number = max(map(int, numbers), default=-1) + 1
    kept |= {
        f"{number}/{name}": without_objects(f"input {name!r}", array)
        for name, array in arrays.items()
    }
    stream = io.BytesIO()
    np.savez(stream, **kept)  # type: ignore[arg-type]
    replace_file(path, stream.getvalue())
    return len({name.partition("/")[0] for name in kept})


def without_objects(what: str, array: np.ndarray) -> np.ndarray:
    """An array as .npz keeps it: objects would be pickled, and nobody should have to unpickle.

    Args:
        what: The array, in an error.
        array: Numbers, or bytes as objects.

    Raises:
        InvalidArgument: it would not come back as it was.
    """
    import numpy as np

    if array.dtype.kind != "O":
        return array
    if any(element.endswith(b"\0") for element in array.flat):
        raise InvalidArgument(
            f"{what} has elements that end in a zero byte, which .npz would cut off",
            hint="--json shows them whole",
        )
    return array.astype(np.bytes_)
