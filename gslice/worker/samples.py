"""The user's samples: requests from a file, and batches of them.

An .npz holds one, an array for each input, or several: `0/x`, `0/y`, `1/x` and so on. A .json holds
a list of requests as KServe v2 over HTTP has them, or one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.core.elements import encode_elements
from gslice.core.errors import LoadFailed
from gslice.core.types import ELEMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.shapes import Shape

    Inputs = tuple[list[np.ndarray | bytes], list[Shape]]

_NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}


@dataclass(frozen=True)
class Sample:
    """A request.

    Attributes:
        label: For people.
        arrays: By input.
    """

    label: str
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class SampleBatch:
    """A batch of samples.

    Attributes:
        samples: Those that have rows in it.
        inputs: What runs.
    """

    samples: tuple[Sample, ...]
    inputs: Inputs

    @property
    def label(self) -> str:
        """For people."""
        first, last = self.samples[0].label, self.samples[-1].label
        return first if len(self.samples) == 1 else f"{first} to {last}"


def read_samples(spec: FunctionSpec) -> list[Sample]:
    """The samples of a function; none, if it names no file of them.

    Raises:
        LoadFailed: they cannot be read, or the file holds none.
    """
    path = spec.warmup
    if not path:
        return []
    try:
        found = _from_json(path) if path.endswith(".json") else _from_npz(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise LoadFailed(
            f"function {spec.name}: the sample {path} cannot be read: {text}"
        ) from error
    if not found:
        raise LoadFailed(f"function {spec.name}: {path} holds no sample")
    if len(found) == 1:
        return [Sample(f"its sample {path}", found[0])]
    chosen = found[: spec.warmup_count or None]
    return [Sample(f"sample {n} of {path}", arrays) for n, arrays in enumerate(chosen, 1)]


def batches(
    spec: FunctionSpec, signature: Signature, samples: Sequence[Sample], rows: int
) -> Iterator[SampleBatch]:
    """All samples in batches of so many rows; what is left over is filled up from the first.

    Samples of one shape after another share a batch.

    Raises:
        LoadFailed: one does not fit the function.
    """
    fitted = [(sample, _fit(spec, signature, sample)) for sample in samples]
    if not signature.rows_max:
        for sample, arrays in fitted:
            yield SampleBatch((sample,), _inputs(signature, arrays))
        return
    for _, alike in groupby(fitted, lambda each: [array.shape[1:] for array in each[1]]):
        yield from _batches_of_one_shape(signature, list(alike), rows)


def _batches_of_one_shape(
    signature: Signature, fitted: list[tuple[Sample, list[np.ndarray]]], rows: int
) -> Iterator[SampleBatch]:
    together = [np.concatenate(each) for each in zip(*(a for _, a in fitted), strict=True)]
    owners = [sample for sample, arrays in fitted for _ in range(len(arrays[0]))]
    for start in range(0, len(owners), rows):
        chosen = np.arange(start, start + rows) % len(owners)
        within = dict.fromkeys(id(owners[row]) for row in chosen)
        members = tuple(sample for sample, _ in fitted if id(sample) in within)
        yield SampleBatch(members, _inputs(signature, [array[chosen] for array in together]))


def _inputs(signature: Signature, arrays: Sequence[np.ndarray]) -> Inputs:
    data: list[np.ndarray | bytes] = []
    for tensor, array in zip(signature.inputs, arrays, strict=True):
        is_text = tensor.dtype == "BYTES"
        data.append(encode_elements(array.flat) if is_text else np.ascontiguousarray(array))
    return data, [array.shape for array in arrays]


def _fit(spec: FunctionSpec, signature: Signature, sample: Sample) -> list[np.ndarray]:
    """Its arrays in the order of the inputs; where the function takes rows, all with as many."""
    for tensor in signature.inputs:
        if tensor.name not in sample.arrays:
            raise LoadFailed(f"function {spec.name}: {sample.label} has no array {tensor.name!r}")
    batched = bool(signature.rows_max)
    arrays = [_fit_array(spec, t, sample, sample.arrays[t.name], batched) for t in signature.inputs]
    if batched:
        most = max(len(array) for array in arrays)
        arrays = [np.resize(array, (most, *array.shape[1:])) for array in arrays]
    return arrays


def _fit_array(
    spec: FunctionSpec, tensor: TensorSpec, sample: Sample, array: np.ndarray, batched: bool
) -> np.ndarray:
    """It may or may not have the batch dimension itself."""
    if batched and array.ndim == len(tensor.dims) - 1:
        array = array[np.newaxis]
    fits = array.ndim == len(tensor.dims) and all(
        dim in (-1, length) for dim, length in zip(tensor.dims, array.shape, strict=True)
    )
    element_bytes = ELEMENT_BYTES[tensor.dtype]
    if not fits or array.size == 0 or (element_bytes and array.itemsize != element_bytes):
        raise LoadFailed(
            f"function {spec.name}: array {tensor.name!r} of {sample.label} is "
            f"{array.dtype}{list(array.shape)}, expected {tensor.dtype}{list(tensor.dims)}"
        )
    return array


def _from_npz(path: str) -> list[dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as archive:
        for name in archive.files:
            number, _, tensor = name.partition("/")
            if not (number.isdigit() and tensor):
                number, tensor = "", name
            found.setdefault(number, {})[tensor] = archive[name]
    if "" in found and len(found) > 1:
        raise ValueError("arrays of one sample are among those of several, as in 0/x")
    return [found[number] for number in sorted(found, key=lambda text: int(text or 0))]


def _from_json(path: str) -> list[dict[str, np.ndarray]]:
    document = json.loads(Path(path).read_bytes())
    requests = document if isinstance(document, list) else [document]
    return [{each["name"]: _tensor(each) for each in one["inputs"]} for one in requests]


def _tensor(given: dict[str, Any]) -> np.ndarray:
    dtype, data = given["datatype"], given["data"]
    if dtype == "BYTES":
        texts = np.array(data, object).reshape(-1)
        elements = [text.encode() if isinstance(text, str) else bytes(text) for text in texts]
        array = np.empty(len(elements), object)
        array[:] = elements
    elif dtype not in ELEMENT_BYTES or dtype == "BF16":
        raise ValueError(f"{given['name']!r} is {dtype}, which JSON does not hold")
    else:
        array = np.array(data, _NUMPY.get(dtype, dtype.lower()))
    return array.reshape(given["shape"])
