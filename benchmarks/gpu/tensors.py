"""torch tensors over memory that somebody else owns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.step import needed

_TYPES = {"FP32": "<f4", "UINT8": "|u1", "INT32": "<i4"}


class _Memory:
    """CUDA's array interface of an address."""

    def __init__(self, address: int, shape: Sequence[int], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(shape),
            "typestr": _TYPES[dtype],
            "data": (address, False),
            "version": 3,
        }


def tensor_at(address: int, shape: Sequence[int], dtype: str) -> Any:
    """A view of device memory; it does not keep the memory."""
    return needed("torch").as_tensor(_Memory(address, shape, dtype), device="cuda")
