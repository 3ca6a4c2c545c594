"""What people type or name as inputs, as the arrays that a function takes."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gslice.cli.images import SUFFIXES, read_image
from gslice.client.tensors import as_array
from gslice.core.errors import InvalidArgument, NotFound
from gslice.core.types import Signature, TensorSpec


def parse_inputs(
    texts: Sequence[str], signature: Signature, scale: str = "auto"
) -> dict[str, np.ndarray]:
    """Input name -> array.

    Args:
        texts: Each a value or `name=value`; values without a name go to the inputs in the
            signature's order. A value is a file (.npy, .npz, .json, an image; for BYTES any),
            `-` for standard input, JSON, or text for BYTES.
        signature: Of the function.
        scale: How an image's pixels become floats; see `read_image`.

    Raises:
        InvalidArgument: a value fits no input, or an input has none.
        NotFound: a file is missing.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    arrays: dict[str, np.ndarray] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in specs:
            arrays[name] = _read(value, specs[name], scale)
            continue
        whole = _read_whole(text, specs)
        if whole is not None:
            arrays.update(whole)
            continue
        free = next((spec for spec in signature.inputs if spec.name not in arrays), None)
        if free is None:
            raise InvalidArgument(f"{text!r} is one input too many", hint=_told(specs))
        arrays[free.name] = _read(text, free, scale)
    missing = specs.keys() - arrays.keys()
    if missing:
        raise InvalidArgument(f"no value for input {', '.join(sorted(missing))}", hint=_told(specs))
    return {name: with_batch(array, specs[name], signature) for name, array in arrays.items()}


def with_batch(array: np.ndarray, spec: TensorSpec, signature: Signature) -> np.ndarray:
    """The array with a batch of one in front, where only that is missing."""
    if signature.rows_max and array.ndim == len(spec.dims) - 1:
        return array[np.newaxis]
    return array


def _read_whole(text: str, specs: dict[str, TensorSpec]) -> dict[str, np.ndarray] | None:
    """All inputs that a .npz file or a JSON mapping names; None if the text is neither."""
    path = Path(text)
    if path.suffix == ".npz":
        return {name: array for name, array in _load_npz(path).items() if _known(name, specs)}
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        value = _json(file_text(path), text) if path.suffix == ".json" else _json(text)
        if isinstance(value, dict):
            named = value.get("inputs", value) if "inputs" not in specs else value
            if not isinstance(named, dict):
                raise InvalidArgument(f"{text}: inputs must be a mapping of names to values")
            return {
                name: as_array(entry, specs[name])
                for name, entry in named.items()
                if _known(name, specs)
            }
    return None


def _read(text: str, spec: TensorSpec, scale: str) -> np.ndarray:
    if text == "-":
        return _from_bytes(sys.stdin.buffer.read(), spec)
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _load_npy(path, spec)
    if suffix == ".json":
        return as_array(_json(file_text(path), text), spec)
    if suffix in SUFFIXES and spec.dtype != "BYTES":
        return read_image(path, spec, scale)
    if _is_file(path):
        return _from_bytes(path.read_bytes(), spec, text)
    if spec.dtype == "BYTES" and not text.startswith("["):
        return as_array(text, spec)
    return as_array(_json(text), spec)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than a name may be: it is text
        return False


def _from_bytes(data: bytes, spec: TensorSpec, name: str = "standard input") -> np.ndarray:
    """A BYTES element from any file; for other types the file must be JSON."""
    if spec.dtype == "BYTES":
        return as_array(data, spec)
    try:
        return as_array(_json(data.decode(), name), spec)
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{name} does not hold {spec.dtype} values", hint="give .npy, an image or JSON"
        ) from error


def _json(text: str, file: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if file:
            raise InvalidArgument(f"{file} is not JSON: {error}") from error
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise InvalidArgument(
            f"{shown!r} is no file and no JSON", hint="give a file, JSON, or text for BYTES"
        ) from error


def _load_npy(path: Path, spec: TensorSpec) -> np.ndarray:
    try:
        return as_array(np.load(path, allow_pickle=False), spec)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidArgument(f"{path} is not a .npy file: {error}") from error


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidArgument(f"{path} is not a .npz file: {error}") from error


def file_text(path: Path) -> str:
    """What a text file holds.

    Raises:
        InvalidArgument: it is not UTF-8 text.
        NotFound: there is no such file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text") from error


def _known(name: str, specs: dict[str, TensorSpec]) -> bool:
    if name not in specs:
        raise InvalidArgument(f"there is no input {name!r}", hint=_told(specs))
    return True


def _told(specs: dict[str, TensorSpec]) -> str:
    inputs = (f"{spec.name} ({spec.dtype} {list(spec.dims)})" for spec in specs.values())
    return f"it takes {', '.join(inputs)}"
