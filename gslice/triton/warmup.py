"""`model_warmup`, as the samples that a function is warmed up with."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.core.elements import decode_elements
from gslice.core.errors import ConfigError
from gslice.core.files import replace_file
from gslice.core.units import format_size
from gslice.triton.tensors import data_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.triton.model import Reading

Sample = dict[str, np.ndarray]

_FOLDER = "warmup"  # in the model's directory, for input_data_file
_BYTES_MAX = 1 << 30  # of a sample's tensor
_NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "uint16"}


def samples_of(reading: Reading) -> list[Sample]:
    """All samples; none where zeros do, which is what a function without one gets.

    Raises:
        ConfigError: data of one is not what it is said to be.
    """
    given = [each.inputs for each in reading.config.model_warmup]
    free = any(-1 in tensor.dims for tensor in reading.config.input)
    zeros = all(each.zero_data for inputs in given for each in inputs.values())
    if zeros and reading.config.input and not free:
        return []
    return [
        {name: _array(reading, name, each) for name, each in sorted(inputs.items())}
        for inputs in given
    ]


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Writes samples as the .npz that `warmup` of a function names, unless it is there already."""
    (first, *others), named = samples, dict[str, np.ndarray]()
    if not others:
        named = first
    for number, sample in enumerate(samples if others else ()):
        named |= {f"{number}/{name}": array for name, array in sample.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in named.items():
            # Of one date, so that the same sample is the same file.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != data:
        replace_file(path, data)


def _array(reading: Reading, name: str, given: Any) -> np.ndarray:
    dtype, shape = data_type(given.data_type), tuple(given.dims)
    place = reading.model.place(reading.text.line_of("model_warmup"))
    if not dtype or any(dim < 1 for dim in shape):
        raise ConfigError(
            f"{place}: sample of {name!r}: needs a data_type, and dims that are known"
        )
    if math.prod(shape) * _element_bytes(dtype) > _BYTES_MAX:
        raise ConfigError(
            f"{place}: sample of {name!r}: dims {list(shape)} are more than"
            f" {format_size(_BYTES_MAX)}"
        )
    if given.input_data_file:
        return _from_file(reading, name, dtype, shape, given.input_data_file)
    if dtype == "BYTES":
        return np.full(shape, b"", "S1")
    kind = _kind(dtype)
    if not given.random_data:
        return np.zeros(shape, kind)
    random = np.random.default_rng(0)
    # Numbers that index something are no more than 1, so that what they index has it.
    values: np.ndarray
    if dtype == "BF16":
        values = random.random(shape, np.float32).view(np.uint32) >> 16
    elif kind.kind == "f":
        values = random.random(shape)
    else:
        values = random.integers(0, 2, shape)
    return values.astype(kind)


def _kind(dtype: str) -> np.dtype:
    return np.dtype(_NUMPY.get(dtype, dtype.lower()))


def _element_bytes(dtype: str) -> int:
    return 1 if dtype == "BYTES" else _kind(dtype).itemsize


def _from_file(
    reading: Reading, name: str, dtype: str, shape: tuple[int, ...], file: str
) -> np.ndarray:
    path = reading.model.path / _FOLDER / file
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ConfigError(f"sample of {name!r}: input_data_file: {file!r} is not in {_FOLDER}")
    try:
        data = path.read_bytes()
        if dtype == "BYTES":
            array = np.array(decode_elements(data))
        else:
            array = np.frombuffer(data, _kind(dtype))
    except OSError as error:
        raise ConfigError(f"sample of {name!r}: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"sample of {name!r}: {path}: {error}") from error
    if array.size != math.prod(shape):
        raise ConfigError(
            f"sample of {name!r}: {path} holds {array.size} elements, and its dims {list(shape)}"
            f" hold {math.prod(shape)}"
        )
    return array.reshape(shape)
