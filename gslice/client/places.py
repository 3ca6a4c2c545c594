"""Which tensors of a request go through shared memory, and where they lie there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.client import tensors
from gslice.client.slabs import Area
from gslice.core.errors import Internal
from gslice.core.types import ELEMENT_BYTES, Signature, TensorSpec

if TYPE_CHECKING:
    from gslice.client.calls import Inputs

TENSOR_BYTES_MIN = 64 << 10
"""Below that, telling where a tensor lies costs what its copies do."""


@dataclass(frozen=True)
class Wanted:
    """Bytes by name of a tensor."""

    inputs: dict[str, int]
    outputs: dict[str, int]

    @property
    def sizes(self) -> list[int]:
        """Of all."""
        return [*self.inputs.values(), *self.outputs.values()]

    def placed(self, areas: Sequence[Area]) -> Places:
        """With an area for each of `sizes`."""
        count = len(self.inputs)
        return Places(
            dict(zip(self.inputs, areas[:count], strict=True)),
            dict(zip(self.outputs, areas[count:], strict=True)),
        )


@dataclass(frozen=True)
class Places:
    """Areas by name of a tensor."""

    inputs: dict[str, Area]
    outputs: dict[str, Area]

    @property
    def areas(self) -> list[Area]:
        """All."""
        return [*self.inputs.values(), *self.outputs.values()]

    def write(self, name: str, array: np.ndarray, dtype: str) -> None:
        """Puts an input where it goes."""
        kind = array.dtype.newbyteorder("<") if dtype == "BF16" else tensors.DTYPES[dtype]
        self.inputs[name].array(kind, array.shape)[...] = array

    def read(self, output: Any) -> np.ndarray:
        """An output where the server put it; the area is held by the array.

        Raises:
            Internal: It cannot lie there.
        """
        try:
            dtype = output.datatype
            kind = tensors.bf16_dtype() if dtype == "BF16" else tensors.DTYPES[dtype]
            array = self.outputs[output.name].array(kind, tuple(output.shape))
        except (KeyError, ValueError) as error:
            raise Internal(f"the answer's output {output.name!r} is broken: {error}") from error
        array.flags.writeable = False
        return array


def wanted(inputs: Inputs, outputs: Sequence[str] | None, signature: Signature) -> Wanted:
    """The large tensors of a request whose sizes are known before it runs."""
    arrays = {
        name: value
        for name, value in inputs.items()
        if isinstance(value, np.ndarray) and value.dtype.kind not in "OSU"
    }
    rows = next((array.shape[0] for array in arrays.values() if array.ndim), 0)
    known = {
        spec.name: _bytes(spec, rows if signature.rows_max else None)
        for spec in signature.outputs
        if outputs is None or spec.name in outputs
    }
    return Wanted(
        {name: a.nbytes for name, a in arrays.items() if a.nbytes >= TENSOR_BYTES_MIN},
        {name: size for name, size in known.items() if size >= TENSOR_BYTES_MIN},
    )


def set_place(parameters: Any, area: Area, size_bytes: int) -> None:
    """Says in a tensor's parameters where it is."""
    parameters["shared_memory_region"].string_param = area.slab.name
    parameters["shared_memory_byte_size"].int64_param = size_bytes
    if area.offset_bytes:
        parameters["shared_memory_offset"].int64_param = area.offset_bytes


def _bytes(spec: TensorSpec, rows: int | None) -> int:
    """Of an output; 0: nobody knows."""
    dims = spec.dims if rows is None else (rows, *spec.dims[1:])
    return 0 if any(dim < 0 for dim in dims) else math.prod(dims) * ELEMENT_BYTES[spec.dtype]
